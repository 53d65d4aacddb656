"""Layers of a model of transformers that are left out: taken out of their list, and out of the configuration."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from pynas.calls import Call, pick_output
from pynas.copies import copy_module
from pynas.supernets.shapes import kept_generators


def remove_layers(model: nn.Module, left_out: Collection[str], call: Call) -> nn.Module:
    """Return a model of transformers without the layers that are left out; the others move up in their list.

    Keys and values of a generation are kept by the number of the layer, and their length is read from the first one's, so a
    layer that hands on its input must not keep its number. The configuration gets the new number of layers, so that the
    model's class builds as many. Where nothing of it counts them, or parts of layers are left out, these stay, and the attention
    modules are counted anew alone.

    model: with a module that hands on its input in the place of each unit that is left out; it is not changed. left_out: names
    of these. call: an example; the model itself is returned where its outputs would not stay as they are, and where it is none
    of transformers.
    """
    if not of_transformers(model) or not left_out:
        return model
    lists: dict[str, set[int]] = {}
    for name in left_out:
        path, _, number = name.rpartition(".")
        if isinstance(model.get_submodule(path), nn.ModuleList):
            lists.setdefault(path, set()).add(int(number))
    shared = {id(value): value for value in (*model.parameters(), *model.buffers())}
    shorter: Any = copy_module(model, shared, where="compress")
    try:
        gone = tuple(f"{path}." for path, numbers in lists.items() if _shorten(shorter, path, numbers))
        _count_anew(shorter, [name for name in left_out if not name.startswith(gone)])
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


def _shorten(model: Any, path: str, numbers: Collection[int]) -> bool:
    """Take layers out of a list, in place, where a setting counts them: one by which as many fewer are built."""
    layers: Any = model.get_submodule(path)
    before, after = len(layers), len(layers) - len(numbers)
    if not any(_set_count(model, config, path, before, after, numbers) for config in configs_of(model.config)):
        return False
    for number, layer in enumerate(layers):
        for part in layer.modules():
            if type(vars(part).get("layer_idx")) is int:
                part.layer_idx -= sum(other < number for other in numbers)
    for number in sorted(numbers, reverse=True):
        del layers[number]
    return True


def _set_count(model: Any, config: Any, path: str, before: int, after: int, numbers: Collection[int]) -> bool:
    """Write the number of layers to the setting of a configuration that counts them, and take them out of its lists."""
    kept = copy.copy(vars(config))
    for name, value in kept.items():
        if "layer" in name and isinstance(value, list) and len(value) == before:
            setattr(config, name, [each for number, each in enumerate(value) if number not in numbers])
    for name, value in kept.items():
        if "layer" in name and type(value) is int and value == before:
            setattr(config, name, after)
            if len(built(type(model), model.config).get_submodule(path)) == after:  # type: ignore[arg-type]
                return True
            setattr(config, name, value)
    vars(config).update(kept)
    return False


def _count_anew(model: nn.Module, parts: Collection[str]) -> None:
    """Count attention modules of one name in a list, from 0, where parts of its layers are left out."""
    paths: list[str] = []
    for path, layers in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in paths)
        if inside or not isinstance(layers, nn.ModuleList) or not any(name.startswith(f"{path}.") for name in parts):
            continue
        paths.append(path)
        counts: dict[str, int] = {}
        for layer in layers:
            for name, part in layer.named_modules():
                if type(vars(part).get("layer_idx")) is int:
                    part.layer_idx = counts.get(name, 0)  # type: ignore[assignment]
                    counts[name] = part.layer_idx + 1  # type: ignore[operator, assignment]
