"""BigNAS's convolutional space: elastic resolution, widths, depths and kernels (PreNAS, table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pynas.spaces.space import Cell, Space


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
    """An inverted bottleneck whose input is as wide as whatever comes before it."""

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
    """The choices of a stage: every width with every depth, and a kernel for each layer."""

    channels: Sequence[int]
    layers: Sequence[int]
    kernels: Sequence[int]
    expand: int
    stride: int


def bignas(
    name: str,
    sides: Sequence[int],
    stem: Sequence[int],
    stages: Sequence[Stage],
    head: Sequence[int],
) -> Space:
    """Blocks: the resolution, the stem's width, the stages with cells (channels, layers) by channels, the head's width.

    Every block is chosen freely; what a layer costs depends on the resolution and on the width before it.
    """
    blocks = [_one([ResolutionSpec(side) for side in sides]), _one([ElasticStemSpec(width) for width in stem])]
    for stage in stages:
        cells = []
        for channels in stage.channels:
            first, rest = (
                tuple(ElasticMBConvSpec(channels, kernel, stage.expand, stride) for kernel in stage.kernels)
                for stride in (stage.stride, 1)
            )
            cells += [Cell((first, *[rest] * (layers - 1))) for layers in stage.layers]
        blocks.append(tuple(cells))
    blocks.append(_one([ElasticHeadSpec(width) for width in head]))
    return Space(name, tuple(blocks), image_size=max(sides))


def _one(candidates: list) -> tuple[Cell, ...]:
    return (Cell((tuple(candidates),)),)


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
