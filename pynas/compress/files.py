"""Save and load smaller networks: sizes of the units as JSON, weights as safetensors, the example that sizes are read by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.compress.hugging_face import KIND, WEIGHTS, write_weights
from pynas.compress.layers import remove_layers
from pynas.compress.net import UnitNet
from pynas.compress.pieces import Skip
from pynas.compress.shrink import Report
from pynas.compress.units import find_units
from pynas.copies import copy_module, unwrapped
from pynas.errors import InputError
from pynas.files import atomic, header, read_json, write_json
from pynas.spaces import Architecture
from pynas.tensor_files import read_tensors
from pynas.train.method import unshared_state

SIZES, EXAMPLE = "compress.json", "example.pt"


def save(
    folder: str | Path, model: nn.Module, net: UnitNet, architecture: Architecture | str, report: Report | None = None
) -> None:
    """Write a smaller network to a folder, from which `load` puts it back into the user's own model.

    model: what `net.extract(architecture)` returned, trained further or not. Tensors that stand twice (tied) are written once.
    """
    folder, units = Path(folder), dict[str, Any]()
    for block, choice in zip(net.blocks, net.space.resolve(architecture)):
        for (parts, cuts), candidate in zip(block, choice.path):
            cut = cuts[candidate]
            units[parts.unit.name] = "left out" if cut.left_out else parts.sizes(cut)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / EXAMPLE) as path:
        call = net.call.to(torch.device("cpu"))
        torch.save({"args": call.args, "kwargs": dict(call.kwargs)}, path)
    write_weights(folder, model)
    content = {"model": type(net.model).__name__, "units": units, "report": None if report is None else asdict(report)}
    write_json(folder / SIZES, header(KIND) | content)


def load(model: nn.Module, folder: str | Path) -> nn.Module:
    """Return a copy of the user's model with the units and weights of a folder that `save` wrote.

    model: of the class and configuration of the one that was compressed; its weights do not count.

    Raises:
        InputError: a folder without the files, or a model whose units or tensors are others.
    """
    folder = Path(folder)
    content, weights = read_json(folder / SIZES, KIND), read_tensors(folder / WEIGHTS, KIND)
    try:
        example = torch.load(folder / EXAMPLE, weights_only=True, map_location="cpu")
    except Exception as error:
        raise InputError(f"[compress] expected an example in {folder / EXAMPLE}, got {error}") from error
    smaller = copy_module(unwrapped(model), where="compress").eval()
    call = Call(example["args"], example["kwargs"]).to(next(smaller.parameters()).device)
    units = {unit.name: unit for unit in find_units(smaller, call)}
    if set(units) != set(content["units"]):
        raise InputError(f"[compress] expected the units {', '.join(content['units'])} of a {content['model']}, got "
                         f"{', '.join(units)} of a {type(model).__name__}")  # fmt: skip
    for name, sizes in content["units"].items():
        unit = units[name]
        smaller.set_submodule(name, Skip.of(unit) if sizes == "left out" else _resized(Parts.of(unit), sizes))
    smaller = remove_layers(smaller, [name for name, sizes in content["units"].items() if sizes == "left out"], call)
    try:
        missing, unexpected = smaller.load_state_dict(dict(weights.tensors), strict=False)
        tied = set(smaller.state_dict()) - set(unshared_state(smaller))
        if set(missing) - tied or unexpected:
            raise RuntimeError(f"{', '.join([*missing, *unexpected])} on one side only")
    except RuntimeError as error:
        raise InputError(f"[compress] expected the tensors of {folder / WEIGHTS}, got others: {error}") from error
    return smaller


def _resized(parts: Parts, sizes: Mapping[str, int]) -> nn.Module:
    full = parts.sizes(Cut())
    if set(full) != set(sizes) or any(sizes[name] > full[name] for name in sizes):
        raise InputError(f"[compress] expected {parts.unit.name} with {full}, or less of each, got {dict(sizes)}")
    return parts.unit.module if dict(sizes) == full else parts.cut(sizes)
