"""Pi-NAS's space: ResNet-50-D with one of four split-attention bottlenecks in every layer (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pynas.errors import InputError
from pynas.spaces.cell import Cell
from pynas.spaces.space import Space

# Radix, cardinality, width of a group at 64 channels: 1s1x64d, 2s1x64d (ResNeSt-50), 1s2x42d, 2s2x40d.
SPLIT_ATTENTION_OPS = ((1, 1, 64), (2, 1, 64), (1, 2, 42), (2, 2, 40))
EXPANSION = 4


@dataclass(frozen=True)
class SplitAttentionSpec:
    """A split-attention bottleneck from `in_channels` to 4 * `channels`.

    shared_shortcut: whether the candidates of a layer that changes the shape share its shortcut convolution.
    """

    in_channels: int
    channels: int
    stride: int
    radix: int
    cardinality: int
    width: int
    shared_shortcut: bool = True

    @property
    def label(self) -> str:
        """Short name in the literature, `2s1x64d`."""
        return f"{self.radix}s{self.cardinality}x{self.width}d"

    @property
    def has_shortcut(self) -> bool:
        """Whether the shortcut is a convolution, not an identity."""
        return self.stride > 1 or self.in_channels != EXPANSION * self.channels


@dataclass(frozen=True)
class DeepStemSpec:
    """Three 3x3 convolutions of `width`, `width` and 2 * `width` channels, then a 3x3 max pooling of stride 2 if `pool`."""

    width: int
    stride: int
    pool: bool

    @property
    def out_channels(self) -> int:
        """Width of the first block's input."""
        return 2 * self.width


@dataclass(frozen=True)
class PooledHeadSpec:
    """Average pool and classifier."""

    in_channels: int


def splitattention(
    name: str = "splitattention",
    layers: Sequence[int] = (3, 4, 6, 3),
    channels: Sequence[int] = (64, 128, 256, 512),
    stem: DeepStemSpec = DeepStemSpec(32, 2, pool=True),
    shared_shortcut: bool = True,
    image_size: int = 224,
) -> Space:
    """The space of Pi-NAS: 4^16 = 4,294,967,296 networks; each stage of ResNet-50 is a block.

    Raises:
        InputError: stages without layers, or another number of widths.
    """
    if len(layers) != len(channels) or not layers or min(layers) < 1:
        raise InputError(f"[splitattention] expected layers and channels for the same stages, got {layers}, {channels}")
    width, blocks = stem.out_channels, []
    for stage, (depth, planes) in enumerate(zip(layers, channels)):
        built = []
        for layer in range(depth):
            stride = 2 if stage > 0 and layer == 0 else 1
            built.append(tuple(SplitAttentionSpec(width, planes, stride, *op, shared_shortcut)
                               for op in SPLIT_ATTENTION_OPS))  # fmt: skip
            width = EXPANSION * planes
        blocks.append((Cell(tuple(built)),))
    return Space(name, tuple(blocks), stem, PooledHeadSpec(width), image_size, kind="splitattention")


def splitattention_unshared() -> Space:
    """The space of Pi-NAS where every candidate has a shortcut of its own: "without DS" of Pi-NAS, table 7."""
    return splitattention("splitattention-unshared", shared_shortcut=False)


def splitattention_mini() -> Space:
    """A small space for 32x32 images and two CPU cores: one layer per stage, a quarter of the width, 4^4 networks."""
    stem = DeepStemSpec(8, 1, pool=False)
    return splitattention("splitattention-mini", (1, 1, 1, 1), (16, 32, 64, 128), stem, image_size=32)
