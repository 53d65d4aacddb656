"""Outputs of a network's modules as feature maps, found by trial: maps, maps with channels last, and token sequences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pynas.calls import hidden_leaf
from pynas.supernets.shapes import trial

Shape = tuple[int, ...]
# Tokens before those of the patches: of the class, of a distillation, registers.
_MOST_OTHERS = 8


def map_shape(shape: Sequence[int]) -> Shape | None:
    """Return the shape (C, H, W) of a feature as a map; None for a feature that is none.

    shape: (C, H, W), (S, S, C), or (N, C) of tokens, the last S x S of which are patches, row by row.
    """
    if len(shape) == 3:
        return (shape[2], *shape[:2]) if shape[0] == shape[1] != shape[2] else tuple(shape)
    if len(shape) != 2:
        return None
    side = math.isqrt(shape[0])
    return (shape[1], side, side) if side and shape[0] - side * side <= _MOST_OTHERS else None


class ToMap(nn.Module):
    """A feature as a map `[B, C, H, W]`; see `map_shape`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, S, S, C], or tokens [B, N, C] -> [B, C, S, S]."""
        if x.ndim == 4:
            return x.permute(0, 3, 1, 2).contiguous()
        side = math.isqrt(x.shape[1])
        return x[:, x.shape[1] - side * side :].mT.unflatten(2, (side, side)).contiguous()

    def back(self, found: Tensor, x: Tensor) -> Tensor:
        """Return a feature like `x` from a map: the other tokens are those of `x`."""
        if x.ndim == 4:
            return found.permute(0, 2, 3, 1)
        tokens = found.flatten(2).mT
        return torch.cat((x[:, : x.shape[1] - tokens.shape[1]], tokens), 1)


class AsMap(nn.Module):
    """A module of a network with a submodule `map` through which its feature passes as a map, which a teacher can tap."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.map = layer, ToMap()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Arguments and outputs are the layer's."""
        output = self.layer(*args, **kwargs)
        found = hidden_leaf(output)
        if found is None:
            return output
        leaves, structure = tree_flatten(output)
        leaves[found[0]] = self.map.back(self.map(found[1]), found[1])
        return tree_unflatten(leaves, structure)

    def __getattr__(self, name: str) -> Any:
        """Return the layer's own attributes, which the network may ask for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class MapOf(NamedTuple):
    """A submodule that puts out a feature map: its name, the shape (C, H, W) of the map, and whether it is one of a sequence."""

    name: str
    shape: Shape
    in_sequence: bool

    @property
    def depth(self) -> int:
        """Modules around it, below the network."""
        return self.name.count(".")


def maps_of(module: nn.Module, image_shape: Sequence[int]) -> list[MapOf]:
    """Return the submodules that put out a feature map of their own, in the order in which they end.

    Of several that give the same tensor it is the one of the least depth, which is one of a sequence where any of them is; those
    that run more than once, and those whose output a later module changes in place, are left out.

    image_shape: (3, H, W) of the images to try.

    Raises:
        InputError: a network that does not run on such images.
    """
    return trial(module, tuple(image_shape), _recorded)


def _recorded(subject: nn.Module, x: Tensor) -> list[MapOf]:
    seen: list[tuple[str, Tensor, int]] = []

    def keep(name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        found = hidden_leaf(output)
        if found is not None:
            seen.append((name, found[1], found[1]._version))

    handles = [part.register_forward_hook(partial(keep, name)) for name, part in subject.named_modules() if name]
    try:
        subject(x)
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(name for name, _, _ in seen)
    chosen: dict[int, MapOf] = {}
    for name, tensor, version in seen:
        shape = map_shape(tensor.shape[1:])
        if times[name] > 1 or tensor._version != version or shape is None or len(tensor) != len(x):
            continue
        found, before = MapOf(name, shape, name.rpartition(".")[2].isdigit()), chosen.pop(id(tensor), None)
        if before is not None:
            found = min(found, before, key=lambda one: one.depth)._replace(
                in_sequence=found.in_sequence or before.in_sequence
            )
        chosen[id(tensor)] = found
    return list(chosen.values())
