"""Sizes of a smaller model of transformers: as its configuration, or as what differs from the model that this builds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pynas.compress.layers import built, configs_of
from pynas.compress.pieces import Skip

_PLAIN = (bool, int, float, str, type(None))
# Description of what `nn.Identity` does, as of a `Skip`.
_IDENTITY: dict[str, Any] = {"entry": 0, "exit": 0, "outputs": None, "settings": {}}
# Settings with these in their names are no sizes of a layer's parts.
_OTHERS = ("layer", "vocab", "token", "position", "image", "patch", "label", "dropout", "range", "eps")


def fitted_config(model: Any) -> Any:
    """Return a configuration from which a model's class builds tensors of the model's shapes; None where none is found.

    Every setting that is a number is tried at its share of old sizes to new ones, and kept where more tensors fit.
    """
    config, shapes = copy.deepcopy(model.config), _shapes(model)
    theirs = _shapes(built(type(model), config))
    if theirs.keys() != shapes.keys():
        return None
    wrong = _misfits(theirs, shapes)
    ratios = {
        (before, after)
        for name in shapes
        for before, after in zip(theirs[name], shapes[name])
        if before != after and len(theirs[name]) == len(shapes[name])
    }
    for trial in _trials(config, sorted(ratios)):
        if not wrong:
            break
        changed = copy.deepcopy(config)
        for number, name, value in trial:
            setattr(list(configs_of(changed))[number], name, value)
        try:
            fits = _misfits(_shapes(built(type(model), changed)), shapes)
        except Exception:  # a class refuses sizes in any way
            continue
        if fits < wrong:
            config, wrong = changed, fits
    return None if wrong else config


def _trials(config: Any, ratios: list[tuple[int, int]]) -> Iterator[list[tuple[int, str, Any]]]:
    """Yield changes of settings, `(number of the configuration, name, value)`, by the shares of old sizes to new ones."""
    for number, part in enumerate(configs_of(config)):
        for name, value in vars(part).items():
            if name.startswith("_") or any(word in name for word in _OTHERS):
                continue
            for before, after in ratios:
                if isinstance(value, float):
                    yield [(number, name, value * after / before)]
                elif type(value) is int and value > 0 and value * after % before == 0:
                    changes = [(number, name, value * after // before)]
                    if "heads" in name and getattr(part, "head_dim", None) is None and hasattr(part, "hidden_size"):
                        changes.append((number, "head_dim", part.hidden_size // value))
                    yield changes
                elif value is None:
                    yield [(number, name, after)]


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def _misfits(shapes: Mapping[str, list[int]], expected: Mapping[str, list[int]]) -> int:
    return sum(shapes.get(name) != expected.get(name) for name in {*shapes, *expected})


def differences(model: Any) -> dict[str, Any]:
    """Return what differs in a model's submodules from those that its configuration builds, by name, as JSON values.

    Of each: `shapes` of tensors, `values` of plain attributes, `config` of its own configuration, or `skip`, where a module that
    hands on its input is in its place.

    Raises:
        ValueError: a submodule of another class, or one more than is built.
    """
    theirs = dict(built(type(model), model.config).named_modules())
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        if any(name.startswith(f"{other}.") for other, kept in found.items() if "skip" in kept):
            continue
        other: Any = theirs.get(name)
        if isinstance(part, Skip) or (isinstance(part, nn.Identity) and not isinstance(other, nn.Identity)):
            found[name] = {"skip": part.description if isinstance(part, Skip) else _IDENTITY}
        elif type(other) is not type(part):
            raise ValueError(f"{name} of the class {type(part).__name__} in place of {type(other).__name__}")
        elif difference := _difference(part, other, model.config):
            found[name] = difference
    return found


def _difference(part: nn.Module, other: nn.Module, config: Any) -> dict[str, Any]:
    shapes = {
        name: list(value.shape)
        for name, value in _tensors(part).items()
        if value.shape != getattr(getattr(other, name, None), "shape", None)
    }
    found = {"shapes": shapes, "values": _changed(vars(part), vars(other))}
    own = vars(part).get("config")
    if own is not None and not any(own is shared for shared in configs_of(config)):
        found["config"] = _changed(vars(own), vars(vars(other).get("config", config)))
    return {name: values for name, values in found.items() if values}


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    return dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values, and sequences of them, that differ."""
    return {
        name: value
        for name, value in ours.items()
        if name[0] != "_" and name != "training" and _is_plain(value) and value != theirs.get(name, torch)
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(x, _PLAIN) for x in value))
