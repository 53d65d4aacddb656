"""Shapes of modules, found on the meta device: nothing is computed and no state changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pynas.copies import copy_module

Shape = tuple[int, ...]


def to_meta(module: nn.Module) -> nn.Module:
    """Return a copy without storage, in evaluation mode."""
    memo: dict[int, object] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    return copy_module(module, memo).eval()


@torch.no_grad()
def output_shape(module: nn.Module, input_shape: Shape) -> Shape:
    """Shape of a module's output for one sample of `input_shape` (neither has the batch axis)."""
    return tuple(to_meta(module)(torch.empty(1, *input_shape, device="meta")).shape[1:])


def extracted(module: nn.Module, shape: Shape) -> nn.Module:
    """Plain module with the outputs of a supernet's module for inputs of `shape` (without the batch axis).

    A candidate that shares its weights has `extract(shape)`, which returns a plain module with copies of its slices; any
    other module is returned as it is.
    """
    return module.extract(shape) if hasattr(module, "extract") else module  # type: ignore[operator]


def extracted_chain(modules: Sequence[nn.Module], shape: Shape) -> list[nn.Module]:
    """Plain modules with the outputs of a supernet's modules, run one after the other, for inputs of `shape`."""
    if not any(hasattr(module, "extract") for module in modules):
        return list(modules)
    plain = []
    for module in modules:
        plain.append(extracted(module, shape))
        shape = output_shape(plain[-1], shape)
    return plain
