"""Layers of a model of transformers that are left out: taken out of their list, and out of the configuration."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from pynas.calls import Call
from pynas.compress.outputs import pick_output
from pynas.copies import copy_module
from pynas.supernets.shapes import kept_generators


def remove_layers(model: nn.Module, left_out: Collection[str], call: Call) -> nn.Module:
    """Return a model of transformers without the layers that are left out; the others move up in their list.

    Keys and values of a generation are kept by the number of the layer, and their length is read from the first one's, so a
    layer that hands on its input must not keep its number. The configuration gets the new number of layers, so that the
    model's class builds as many.

    model: with a module that hands on its input in the place of each unit that is left out; it is not changed. left_out: names
    of these. call: an example, on which the outputs must stay as they are. The model itself is returned where they do not, where
    nothing of the configuration counts the layers, and where it is none of transformers.
    """
    lists: dict[str, set[int]] = {}
    for name in left_out:
        path, _, number = name.rpartition(".")
        if isinstance(model.get_submodule(path), nn.ModuleList):
            lists.setdefault(path, set()).add(int(number))
    if not of_transformers(model) or not left_out:
        return model
    shared = {id(value): value for value in (*model.parameters(), *model.buffers())}
    shorter: Any = copy_module(model, shared, where="compress")
    try:
        for path, numbers in lists.items():
            _shorten(shorter, path, numbers)
        _number(shorter, left_out)
        with torch.no_grad():
            before, after = (pick_output(call(each), call) for each in (model, shorter))
    except Exception:  # code of others, of any model
        return model
    return shorter if close(after, before) else model


def of_transformers(model: Any) -> bool:
    """Tell whether a model is of a class of transformers, so that its configuration builds it."""
    return type(model).__module__.startswith("transformers.models.") and hasattr(model, "config")


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Tell whether two outputs, of any but one shape, differ by rounding alone."""
    if ours.shape != theirs.shape:
        return False
    least = max(1e-5, 2 * torch.finfo(theirs.dtype).eps)
    return bool((ours.float() - theirs.float()).abs().max() <= least * (1 + theirs.float().abs().max()))


def built(kind: Any, config: Any) -> nn.Module:
    """Return a model that a class of transformers builds from a configuration, without weights where its code allows that."""
    with kept_generators(torch.device("cpu")):
        try:
            with torch.device("meta"):
                return kind(copy.deepcopy(config)).eval()
        except (NotImplementedError, RuntimeError):  # code that reads values
            return kind(copy.deepcopy(config)).eval()


def configs_of(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it, as of a text and an image model."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_diff_dict"):
            yield from configs_of(value)


def _shorten(model: Any, path: str, numbers: Collection[int]) -> None:
    """Take layers out of a list, in place, and find the setting that counts them: the one by which as many are built."""
    layers: Any = model.get_submodule(path)
    before, after = len(layers), len(layers) - len(numbers)
    for number in sorted(numbers, reverse=True):
        del layers[number]
    for config in configs_of(model.config):
        kept = copy.copy(vars(config))
        for name, value in kept.items():
            if "layer" in name and isinstance(value, list) and len(value) == before:
                setattr(config, name, [each for number, each in enumerate(value) if number not in numbers])
        for name, value in kept.items():
            if "layer" in name and type(value) is int and value == before:
                setattr(config, name, after)
                if len(built(type(model), model.config).get_submodule(path)) == after:  # type: ignore[arg-type]
                    return
                setattr(config, name, value)
        vars(config).update(kept)
    raise ValueError(f"no setting counts the layers of {path}")


def _number(model: nn.Module, left_out: Collection[str]) -> None:
    """Give attention modules the number of their layer among those that are there, by which they keep keys and values.

    Where a part of a layer is left out, modules of one name are counted instead, so that the first one has the number 0.
    """
    whole = all(isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ModuleList) for name in left_out)
    for layers in model.modules():
        if not isinstance(layers, nn.ModuleList):
            continue
        counts: dict[str, int] = {}
        for number, layer in enumerate(layers):
            for name, part in layer.named_modules():
                if type(vars(part).get("layer_idx")) is int:
                    part.layer_idx = number if whole else counts.get(name, 0)  # type: ignore[assignment]
                    counts[name] = counts.get(name, 0) + 1
