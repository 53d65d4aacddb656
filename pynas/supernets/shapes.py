"""Shapes and counts of modules, found on the meta device: nothing is computed and no state changes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from pynas.errors import InputError

if TYPE_CHECKING:
    from pynas.supernets.supernet import Supernet


def to_meta(module: nn.Module) -> nn.Module:
    """A copy without storage, in evaluation mode."""
    memo: dict[int, object] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    return copy.deepcopy(module, memo).eval()


@torch.no_grad()
def output_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a module puts out for one sample of `input_shape` (neither counts the batch)."""
    return tuple(to_meta(module)(torch.empty(1, *input_shape, device="meta")).shape[1:])


def alone(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """What a module is when taken out of its supernet for inputs of `shape` (without the batch).

    A candidate that shares its weights with others has `extract(shape)`: a plain module with copies of its slices.
    """
    return module.extract(shape) if hasattr(module, "extract") else module  # type: ignore[operator]


def first_path_shapes(net: Supernet, image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Shapes after every block along the first candidates of every cell.

    Raises:
        InputError: the cells of a block disagree.
    """
    shape: tuple[int, ...] = tuple(image_shape)
    if net.stem is not None:
        shape = output_shape(net.stem, shape)
    shapes = []
    for b, cells in enumerate(net.space.blocks):
        ends = []
        for c in range(len(cells)):
            end = shape
            for layer in net.layers(b, c):
                end = output_shape(layer[0], end)
            ends.append(end)
        if len(set(ends)) > 1:
            raise InputError(f"[supernet] expected the cells of block {b} to end with one shape, got {ends}")
        shape = ends[0]
        shapes.append(shape)
    return shapes
