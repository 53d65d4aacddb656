"""MBConv spaces of DNA (tables 1 and 10, and of its found networks) and BossNAS (with and without SE); `mbconv-mini` (32x32)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pynas.spaces.cell import Cell
from pynas.spaces.space import Space


@dataclass(frozen=True)
class MBConvSpec:
    """An inverted bottleneck: expand 1x1, depth-wise kxk, squeeze-excitation, project 1x1.

    exit_channels: width of a 1x1 convolution with batch norm after the block, None for none.
    se: channels of the squeeze as a share of `in_channels`, 0 for no squeeze-excitation.
    """

    in_channels: int
    out_channels: int
    kernel: int
    expand: int
    stride: int = 1
    exit_channels: int | None = None
    se: float = 0.25

    @property
    def label(self) -> str:
        """Short name in the literature, `MB6 k5`."""
        return f"MB{self.expand} k{self.kernel}"


@dataclass(frozen=True)
class StemSpec:
    """A 3x3 convolution, then optionally an MB1 k3 block; se: of that block, as of `MBConvSpec`."""

    channels: int
    stride: int
    mb1_channels: int | None = None
    se: float = 0.25

    @property
    def out_channels(self) -> int:
        """Width of the first block's input."""
        return self.mb1_channels or self.channels


@dataclass(frozen=True)
class HeadSpec:
    """Optionally a fixed MB6 k3 block, then a 1x1 convolution, average pool and classifier; se: of that block."""

    in_channels: int
    channels: int
    mb6_channels: int | None = None
    se: float = 0.25


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
    se: float = 0.25,
) -> Space:
    """An MBConv space with searchable operation, depth and width (DNA, section 3.3).

    blocks: stride of each block, and its cells as (layers, channels). se: of every MBConv, those of stem and head too, as of
        `MBConvSpec`; 0 for none.

    The output of a block is as wide as its widest cell: a narrower cell ends with a 1x1 convolution to that width, which
    is part of the candidates of its last layer. So the input, weights and costs of a block do not depend on the choice of
    the block before it, and cost tables are exact.
    """
    width, built = stem.out_channels, []
    for stride, cells in blocks:
        out = max(channels for _, channels in cells)
        first = MBConvSpec(width, out, 0, 0, stride, se=se)
        built.append(tuple(_cell(first, layers, channels, ops) for layers, channels in cells))
        width = out
    head = HeadSpec(width, head_channels, mb6_channels, se)
    return Space(name, tuple(built), replace(stem, se=se), head, image_size, kind="mbconv")


def _cell(block: MBConvSpec, layers: int, channels: int, ops: Sequence[tuple[int, int]]) -> Cell:
    """A cell of a block, which is given as one layer from its input to its output."""
    out = block.out_channels
    spec, built = replace(block, out_channels=channels), []
    for layer in range(layers):
        if layer == layers - 1:
            spec = replace(spec, exit_channels=out if out != channels else None)
        built.append(tuple(replace(spec, expand=expand, kernel=kernel) for expand, kernel in ops))
        spec = replace(spec, in_channels=channels, stride=1)
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


def mbconv_dna_single(
    name: str = "mbconv-dna-single",
    layers: Sequence[int] = (2, 4, 4, 4, 4, 1),
    channels: Sequence[int] = (24, 40, 80, 112, 192, 320),
) -> Space:
    """DNA's space with a single cell per block (table 10): 6^19 = 609,359,740,010,496 architectures for 224x224 images.

    layers, channels: of the six blocks. A network that DNA retrains has no 1x1 convolutions after its blocks, unlike narrow
    cells of `mbconv-dna`: it is one of a space of its own widths (`mbconv-dna-a`, `mbconv-dna-b`, `mbconv-dna-d`).
    """
    blocks = [
        (stride, [cell]) for stride, cell in zip((2, 2, 2, 1, 2, 1), zip(layers, channels, strict=True), strict=True)
    ]
    return mbconv(name, blocks, DNA_OPS, StemSpec(32, 2, mb1_channels=16), 1280)


def mbconv_boss(name: str = "mbconv-boss", se: float = 0.25) -> Space:
    """The 18-layer space of DNA's benchmark and of BossNAS: 4^18 architectures for 224x224 images.

    se: as of `MBConvSpec`; 0 in `mbconv-boss-no-se`, the space of BossNet-M1 (BossNAS, table 2).
    """
    blocks = ((2, ((2, 24),)), (2, ((4, 40),)), (2, ((4, 80),)), (1, ((4, 112),)), (2, ((4, 192),)))
    return mbconv(name, blocks, BOSS_OPS, StemSpec(32, 2, mb1_channels=16), 1280, mb6_channels=320, se=se)


def mbconv_mini() -> Space:
    """A space for 32x32 images that two CPU cores can train: depth, width, kernel and expansion are searchable."""
    blocks = (
        (2, ((1, 24), (2, 24))),
        (2, ((2, 40), (3, 40), (2, 32))),
        (1, ((2, 64), (3, 64), (3, 48))),
        (2, ((2, 96),)),
    )
    return mbconv("mbconv-mini", blocks, BOSS_OPS, StemSpec(16, 1), 256, image_size=32)
