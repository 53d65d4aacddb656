"""BigNAS's convolutional space: elastic resolution, widths, depths and kernels (PreNAS, table 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell, connect
from pynas.spaces.space import Notation, Space


@dataclass(frozen=True)
class ResolutionSpec:
    """The side in pixels that images are resized to."""

    side: int


@dataclass(frozen=True)
class ElasticStemSpec:
    """A 3x3 convolution of stride 2."""

    channels: int


@dataclass(frozen=True)
class ElasticMBConvSpec:
    """An inverted bottleneck; its input is as wide as the output of the layer before it."""

    channels: int
    kernel: int
    expand: int
    stride: int

    @property
    def label(self) -> str:
        """`MB6 k5 x 112`."""
        return f"MB{self.expand} k{self.kernel} x {self.channels}"


@dataclass(frozen=True)
class ElasticHeadSpec:
    """A 1x1 convolution, average pool and classifier."""

    channels: int


@dataclass(frozen=True)
class Stage:
    """Choices of a stage: a width, a number of layers, and a kernel for each layer."""

    channels: Sequence[int]
    layers: Sequence[int]
    kernels: Sequence[int]
    expand: int
    stride: int


def bignas(name: str, sides: Sequence[int], stem: Sequence[int], stages: Sequence[Stage], head: Sequence[int]) -> Space:
    """A space of the blocks: resolution, width of the stem, stages with cells (channels, layers), width of the head.

    The cost of a layer depends on the resolution and on the width before it. These two are the boundary state: a block
    has one copy of its cells for each state, ordered by state, then channels, then layers. An architecture is written as
    its resolution, widths and kernels, `192|32|16:3|24:333|1280`.

    Raises:
        InputError: choices that are not in rising order, sides below 10, or a kernel that is even or beyond 9.
    """
    _check(name, sides, stem, stages, head)
    widths: Sequence[int] = stem
    blocks = [
        (Cell((tuple(ResolutionSpec(side) for side in sides),), leaves=partial(_with, (), tuple(sides))),),
        tuple(Cell((tuple(ElasticStemSpec(width) for width in stem),), None, (side,), partial(_with, (side,), tuple(stem)))
              for side in sides),
    ]  # fmt: skip
    for stage in stages:
        cells = [layers for channels in stage.channels for layers in _stage(stage, channels)]
        blocks.append(tuple(Cell(layers, None, (side, width), partial(_leave, (side, layers[0][0].channels)))
                            for side in sides for width in widths for layers in cells))  # fmt: skip
        widths = stage.channels
    last = (tuple(ElasticHeadSpec(width) for width in head),)
    blocks.append(tuple(Cell(last, start=(side, width)) for side in sides for width in widths))
    notation = Notation(partial(_write, tuple(blocks)), partial(_read, name, tuple(blocks)))
    return Space(name, tuple(blocks), image_size=max(sides), notation=notation, kind="bignas")


def _check(name: str, sides: Sequence[int], stem: Sequence[int], stages: Sequence[Stage], head: Sequence[int]) -> None:
    for values in (sides, stem, head, *(v for stage in stages for v in (stage.channels, stage.layers, stage.kernels))):
        if not values or min(values) < 1 or list(values) != sorted(set(values)):
            raise InputError(f"[{name}] expected choices above 0 in rising order, got {list(values)}")
    if min(sides) < 10:
        raise InputError(f"[{name}] expected sides of 10 pixels or more, got {list(sides)}")
    kernels = {kernel for stage in stages for kernel in stage.kernels}
    if any(kernel % 2 == 0 or kernel > 9 for kernel in kernels):
        raise InputError(f"[{name}] expected odd kernels up to 9, got {sorted(kernels)}")


def _stage(stage: Stage, channels: int) -> list[tuple[tuple[ElasticMBConvSpec, ...], ...]]:
    """Layers of the cells of one width, a cell per depth."""
    first, rest = (
        tuple(ElasticMBConvSpec(channels, kernel, stage.expand, stride) for kernel in stage.kernels)
        for stride in (stage.stride, 1)
    )
    return [(first, *[rest] * (layers - 1)) for layers in stage.layers]


def _with(state: tuple[int, ...], values: tuple[int, ...], path: tuple[int, ...]) -> tuple[int, ...]:
    """Append the value that a block of one layer chose to a boundary state."""
    return (*state, values[path[0]])


def _leave(state: tuple[int, int], path: tuple[int, ...]) -> tuple[int, int]:
    return state


def _chosen(blocks: Sequence[Sequence[Cell]], architecture: Architecture) -> list[list[Any]]:
    cells = [block[choice.cell] for block, choice in zip(blocks, architecture)]
    return [[layer[c] for layer, c in zip(cell.layers, choice.path)] for cell, choice in zip(cells, architecture)]


def _text(spec: Any) -> str:
    """Text of a layer's choice in an architecture's string form."""
    return str(spec.side if isinstance(spec, ResolutionSpec) else getattr(spec, "kernel", spec.channels))


def _write(blocks: Sequence[Sequence[Cell]], architecture: Architecture) -> str:
    parts = [(_width(specs[0]), "".join(map(_text, specs))) for specs in _chosen(blocks, architecture)]
    return "|".join(f"{width}:{choices}" if width else choices for width, choices in parts)


def _width(spec: Any) -> str:
    """Width that the layers of a stage share; empty for other blocks."""
    return str(spec.channels) if isinstance(spec, ElasticMBConvSpec) else ""


_FORM = re.compile(r"\d\d+\|\d+(\|\d+:\d+)+\|\d+", re.ASCII)


def _read(name: str, blocks: Sequence[Sequence[Cell]], text: str) -> Architecture | None:
    """Read resolution, widths and kernels; None for a text of another form."""
    parts = text.split("|")
    if not _FORM.fullmatch(text) or len(parts) != len(blocks):
        return None
    architecture = connect(blocks, lambda b, cell: _path(cell, parts[b]))
    if architecture is None:
        raise InputError(f"[{name}] expected resolution, widths and kernels of the space, got {text!r}")
    return architecture


def _path(cell: Cell, part: str) -> tuple[int, ...] | None:
    """Path of a cell that one part of the string form stands for; None where the cell has no such path."""
    width, colon, choices = part.rpartition(":")
    texts = list(choices) if colon else [choices]
    known = [list(map(_text, layer)) for layer in cell.layers]
    if width != _width(cell.layers[0][0]) or len(texts) != len(known):
        return None
    return tuple(map(list.index, known, texts)) if all(t in k for t, k in zip(texts, known)) else None


def _eights(low: int, high: int) -> range:
    return range(low, high + 1, 8)


def bignas_cnn() -> Space:
    """PreNAS, table 2, with widths in steps of 8 and resolutions in steps of 32: 20,235,504,844,800 architectures."""
    stages = (
        Stage(_eights(16, 24), (1, 2), (3,), 1, 1),
        Stage(_eights(24, 32), (2, 3), (3,), 6, 2),
        Stage(_eights(40, 48), (2, 3), (3, 5), 6, 2),
        Stage(_eights(80, 88), (2, 3, 4), (3, 5), 6, 2),
        Stage(_eights(112, 128), (2, 3, 4, 5, 6), (3, 5), 6, 1),
        Stage(_eights(192, 216), (2, 3, 4, 5, 6), (3, 5), 6, 2),
        Stage(_eights(320, 352), (1, 2), (3, 5), 6, 1),
    )
    return bignas("bignas-cnn", range(192, 321, 32), _eights(32, 40), stages, _eights(1280, 1408))


def bignas_mini() -> Space:
    """A small BigNAS for 32x32 images that two CPU cores can train: 10,752 architectures."""
    stages = (
        Stage((16, 24), (1, 2), (3,), 1, 1),
        Stage((24, 40), (1, 2), (3, 5), 4, 2),
        Stage((48, 80), (1, 2, 3), (3, 5), 4, 2),
    )
    return bignas("bignas-mini", (24, 32), (16, 24), stages, (128, 192))
