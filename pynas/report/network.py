"""Layers of a network, with their shapes and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pynas.costs.count import count_module
from pynas.spaces import Architecture, Space


@dataclass(frozen=True)
class Layer:
    """One layer: its block (None for stem and head) and its name; for one image, the shape of its output and its costs."""

    block: int | None
    label: str
    shape: tuple[int, ...] | None = None
    params: int | None = None
    madds: int | None = None


def chosen_layers(space: Space, architecture: Architecture) -> list[Layer]:
    """List the layers of an architecture, without shapes and costs."""
    return [
        Layer(b, label(layer[c]))
        for b, choice in enumerate(architecture)
        for layer, c in zip(space.blocks[b][choice.cell].layers, choice.path)
    ]


def measured_layers(
    space: Space, architecture: Architecture, model: nn.Module, image_shape: tuple[int, int, int]
) -> list[Layer]:
    """List the layers of an architecture with stem and head, with shapes and costs.

    model: a network of `pynas.export.subnet`. Where it is no sequence of stem, block_1, ..., head with these layers, the
        list is that of `chosen_layers`.
    """
    chosen = chosen_layers(space, architecture)
    parts = [
        (name, part)
        for name, child in model.named_children()
        for part in (child if name.startswith("block_") and isinstance(child, nn.Sequential) else [child])
    ]
    if not isinstance(model, nn.Sequential) or sum(name.startswith("block_") for name, _ in parts) != len(chosen):
        return chosen
    layers, shape, remaining = [], tuple(image_shape), iter(chosen)
    for name, part in parts:
        costs, shape = count_module(part, shape)
        layer = next(remaining) if name.startswith("block_") else Layer(None, name)
        layers.append(Layer(layer.block, layer.label, shape, costs["params"], costs["madds"]))
    return layers


def label(candidate: Any) -> str:
    """The `label` of a candidate's description, or its text where it has none."""
    return str(getattr(candidate, "label", candidate))
