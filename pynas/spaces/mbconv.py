"""MBConv spaces: `mbconv-dna` (DNA, table 1), `mbconv-boss` (the benchmark of DNA and BossNAS), `mbconv-mini` (32x32)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pynas.spaces.cell import Cell
from pynas.spaces.space import Space


@dataclass(frozen=True)
class MBConvSpec:
    """An inverted bottleneck: expand 1x1, depth-wise kxk, squeeze-excitation, project 1x1.

    exit_channels: width of a 1x1 convolution with batch norm after the block, None for none.
    """

    in_channels: int
    out_channels: int
    kernel: int
    expand: int
    stride: int = 1
    exit_channels: int | None = None

    @property
    def label(self) -> str:
        """Short name in the literature, `MB6 k5`."""
        return f"MB{self.expand} k{self.kernel}"


@dataclass(frozen=True)
class StemSpec:
    """A 3x3 convolution, then optionally an MB1 k3 block."""

    channels: int
    stride: int
    mb1_channels: int | None = None

    @property
    def out_channels(self) -> int:
        """Width of the first block's input."""
        return self.mb1_channels or self.channels


@dataclass(frozen=True)
class HeadSpec:
    """Optionally a fixed MB6 k3 block, then a 1x1 convolution, average pool and classifier."""

    in_channels: int
    channels: int
    mb6_channels: int | None = None


# (expand, kernel) in the order of the published encodings.
DNA_OPS = ((6, 3), (6, 5), (6, 7), (3, 3), (3, 5), (3, 7))
BOSS_OPS = ((6, 3), (6, 5), (3, 3), (3, 5))


def mbconv(
    name: str,
    blocks: Sequence[tuple[int, Sequence[tuple[int, int]]]],
    ops: Sequence[tuple[int, int]],
    stem: StemSpec,
    head_channels: int,
    mb6_channels: int | None = None,
    image_size: int = 224,
) -> Space:
    """An MBConv space with searchable operation, depth and width (DNA, section 3.3).

    blocks: stride of each block, and its cells as (layers, channels).

    The output of a block is as wide as its widest cell: a narrower cell ends with a 1x1 convolution to that width, which
    is part of the candidates of its last layer. So the input, weights and costs of a block do not depend on the choice of
    the block before it, and cost tables are exact.
    """
    width, built = stem.out_channels, []
    for stride, cells in blocks:
        out = max(channels for _, channels in cells)
        built.append(tuple(_cell(width, layers, channels, stride, ops, out) for layers, channels in cells))
        width = out
    head = HeadSpec(width, head_channels, mb6_channels)
    return Space(name, tuple(built), stem, head, image_size, kind="mbconv")


def _cell(width: int, layers: int, channels: int, stride: int, ops: Sequence[tuple[int, int]], out: int) -> Cell:
    built = []
    for layer in range(layers):
        first, last = layer == 0, layer == layers - 1
        spec = MBConvSpec(width if first else channels, channels, 0, 0, stride if first else 1)
        spec = replace(spec, exit_channels=out if last and out != channels else None)
        built.append(tuple(replace(spec, expand=expand, kernel=kernel) for expand, kernel in ops))
    return Cell(tuple(built))


def mbconv_dna() -> Space:
    """The search space of DNA, table 1: 195,898,498,887,057,408 architectures for 224x224 images."""
    blocks = (
        (2, ((2, 24), (3, 24), (2, 32))),
        (2, ((2, 40), (3, 40), (4, 40))),
        (2, ((2, 80), (3, 80), (4, 80))),
        (1, ((3, 112), (4, 112), (4, 96))),
        (2, ((4, 192), (5, 192), (5, 160))),
        (1, ((1, 320),)),
    )
    return mbconv("mbconv-dna", blocks, DNA_OPS, StemSpec(32, 2, mb1_channels=16), 1280)


def mbconv_boss() -> Space:
    """The 18-layer space of DNA's benchmark and of BossNAS: 4^18 architectures for 224x224 images."""
    blocks = ((2, ((2, 24),)), (2, ((4, 40),)), (2, ((4, 80),)), (1, ((4, 112),)), (2, ((4, 192),)))
    return mbconv("mbconv-boss", blocks, BOSS_OPS, StemSpec(32, 2, mb1_channels=16), 1280, mb6_channels=320)


def mbconv_mini() -> Space:
    """A space for 32x32 images that two CPU cores can train: depth, width, kernel and expansion are searchable."""
    blocks = (
        (2, ((1, 24), (2, 24))),
        (2, ((2, 40), (3, 40), (2, 32))),
        (1, ((2, 64), (3, 64), (3, 48))),
        (2, ((2, 96),)),
    )
    return mbconv("mbconv-mini", blocks, BOSS_OPS, StemSpec(16, 1), 256, image_size=32)
