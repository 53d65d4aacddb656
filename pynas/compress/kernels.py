"""Kernels of depthwise convolutions: found, and cut to their centre."""

from __future__ import annotations

import torch
from torch import nn

from pynas.compress.units import Unit
from pynas.copies import copy_module
from pynas.visits import trace


def find_kernels(unit: Unit) -> list[str]:
    """Return the names of depthwise convolutions whose kernel can be cut to 3 without a change of the unit's shapes."""
    ran = {visit.name for visit in trace(unit.module, unit.call.head(1))[0]}
    return [
        name for name, part in unit.module.named_modules() if name in ran and _depthwise(part) and _fits(unit, name)
    ]


def crop_kernel(layer: nn.Module, side: int) -> None:
    """Keep the centre of a kernel, `side` by `side`, in place; the padding shrinks with it."""
    assert isinstance(layer, nn.Conv2d)
    margin = (layer.kernel_size[0] - side) // 2
    if margin:
        weight = layer.weight
        centre = weight.detach()[:, :, margin : margin + side, margin : margin + side].clone()
        layer.weight = nn.Parameter(centre, weight.requires_grad)
        layer.kernel_size = (side, side)
        if not isinstance(layer.padding, str) and layer.padding[0]:
            layer.padding = tuple(max(0, p - d * margin) for p, d in zip(layer.padding, layer.dilation))  # type: ignore[assignment]
            layer._reversed_padding_repeated_twice = [p for p in reversed(layer.padding) for _ in range(2)]


def _depthwise(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or not 1 < layer.groups == layer.in_channels == layer.out_channels:
        return False
    return layer.kernel_size[0] == layer.kernel_size[1] >= 5 and layer.kernel_size[0] % 2 == 1


def _fits(unit: Unit, name: str) -> bool:
    copied = copy_module(unit.module, where="compress").eval()
    crop_kernel(copied.get_submodule(name), 3)
    call = unit.call.head(1)
    try:
        with torch.no_grad():
            shapes = [unit.pick(call.mapped(torch.clone)(module)).shape for module in (unit.module, copied)]
    except Exception:  # a class with padding of its own
        return False
    return shapes[0] == shapes[1]
