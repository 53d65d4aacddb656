"""Draw a network layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from pynas.costs.count import count_module
from pynas.report.figures import SMALL
from pynas.spaces import Architecture, Space

# Colours of the blocks, alternating; stem and head are grey.
_COLOURS = ("tab:blue", "tab:orange")


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


def network_figure(layers: Sequence[Layer]) -> Figure:
    """Draw a bar per layer, from input to output, as wide as its number of channels; neighbouring blocks differ in colour."""
    figure = Figure(figsize=(SMALL[0], 0.6 + 0.27 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    widths = [layer.shape[0] if layer.shape else 1 for layer in layers]
    rows = range(len(layers))
    colours = ["0.5" if layer.block is None else _COLOURS[layer.block % len(_COLOURS)] for layer in layers]
    axes.barh(rows, widths, left=[-width / 2 for width in widths], height=0.82, color=colours, alpha=0.4)
    for row, layer in zip(rows, layers):
        shape = "  " + "×".join(map(str, layer.shape)) if layer.shape else ""
        axes.text(0, row, layer.label + shape, ha="center", va="center")
    firsts: dict[int, int] = {}
    for row, layer in zip(rows, layers):
        if layer.block is not None:
            firsts.setdefault(layer.block, row)
    axes.set_yticks(list(firsts.values()), [f"block {block + 1}" for block in firsts])
    axes.set_xticks([])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
