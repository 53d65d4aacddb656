"""SNIP scores of every subnet of an elastic convolutional supernet from the gradients of the largest (PreNAS, section 4.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.nn.elastic import ElasticHead
from pynas.ops import saliency_boxes
from pynas.supernets import BigNAS
from pynas.supernets.shapes import Shape, extracted, to_meta

NAME = "snip"
# A parameter's name and the shape of the slice that a subnet takes of it.
Slice = tuple[str, Shape]


def read_slices(net: BigNAS, gradients: Mapping[torch.Tensor, torch.Tensor]) -> Costs:
    """Scores `snip` (eq. 4) of every architecture, as tables that add up over the blocks; the resolution counts nothing.

    gradients: of the largest subnet, by parameter. The score of a layer depends on the width before it. Section 4.5 omits
    the normalisation among isomers (eq. 13), which convolutional networks rarely have.

    Raises:
        InputError: a layer without any score (all weights zero).
    """
    _check(net, gradients)
    shapes: dict[str, set[Shape]] = {}
    meta = cast(BigNAS, to_meta(net))
    names = {parameter: name for name, parameter in meta.named_parameters()}

    def visitor(module: Any, shape: Shape, _: tuple) -> tuple[list[Slice], Shape]:
        shared = dict(module.weights.named_parameters()) if hasattr(module, "weights") else {}
        slices = [
            (names[shared[name]], tuple(part.shape)) for name, part in extracted(module, shape).named_parameters()
        ]
        for name, size in slices:
            shapes.setdefault(name, set()).add(size)
        # Slices depend on the channels of a shape alone; no module follows a head.
        return slices, (0,) if isinstance(module, ElasticHead) else (getattr(module, "channels", *shape),)

    walk = meta.visit((3,), visitor)
    sums: dict[Slice, float] = {}
    for name, parameter in net.named_parameters():
        sums |= {(name, shape): value for shape, value in _sums(parameter, gradients[parameter], shapes[name]).items()}
    tables = walk.tables(lambda slices: math.fsum(map(sums.__getitem__, slices)))
    return Costs({NAME: tables}, {NAME: 0.0}, {"space": net.space.name})


def _sums(parameter: torch.Tensor, gradient: torch.Tensor, shapes: set[Shape]) -> dict[Shape, float]:
    """Sum of |g * w| over the leading slice of each shape; slices of a convolution have the centres of its kernels."""
    sums: dict[Shape, float] = {}
    for kernel in {shape[2:] for shape in shapes}:
        same = [shape for shape in shapes if shape[2:] == kernel]
        weight, grad = (_centre(tensor.detach(), kernel) for tensor in (parameter, gradient))
        rows, cols = (sorted(set(sizes)) for sizes in zip(*((shape[0], math.prod(shape[1:])) for shape in same)))
        boxes = saliency_boxes(weight, grad, rows, cols).tolist()
        sums |= {shape: boxes[rows.index(shape[0])][cols.index(math.prod(shape[1:]))] for shape in same}
    return sums


def _centre(tensor: torch.Tensor, kernel: Shape) -> torch.Tensor:
    """Centres of a convolution's kernels, `[outputs, inputs * height * width]`."""
    for axis, size in enumerate(kernel, 2):
        tensor = tensor.narrow(axis, (tensor.shape[axis] - size) // 2, size)
    return tensor.reshape(len(tensor), -1)


def _check(net: BigNAS, gradients: Mapping[torch.Tensor, torch.Tensor]) -> None:
    for number, stage in enumerate(net.weights):
        for layer, part in enumerate(cast(nn.ModuleList, stage)):
            if not any(bool((parameter.detach() * gradients[parameter]).any()) for parameter in part.parameters()):
                raise InputError("[saliency] expected a score above 0 in every layer, got 0 in layer "
                                 f"{layer} of block {number + 1}; are all its weights zero?")  # fmt: skip
