"""ViT spaces: `vit-dna` (DNA family, section 4.2, slimmable DeiT-like blocks) and `vit-mini` (32x32)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell
from pynas.spaces.space import Notation, Space


@dataclass(frozen=True)
class ViTSpec:
    """A block of a vision transformer: it turns a map into tokens, runs `depth` layers, and turns the tokens into a map.

    The input has `in_channels` x `in_side` x `in_side` values, the tokens are `side` x `side` of width `dim`, the output
    has `out_channels` x `out_side` x `out_side` values. Patches of a larger input are merged; each token is unfolded into a
    larger output, or tokens are merged into a smaller one.
    """

    in_channels: int
    in_side: int
    side: int
    out_channels: int
    out_side: int
    dim: int
    mlp_ratio: float
    depth: int
    head_dim: int = 32

    @property
    def label(self) -> str:
        """Width, MLP ratio and depth, `384x3.5d4`."""
        return f"{self.dim}x{self.mlp_ratio:g}d{self.depth}"


@dataclass(frozen=True)
class ViTHeadSpec:
    """Average pool, layer norm and classifier."""

    in_channels: int


def vit(
    name: str,
    maps: Sequence[tuple[int, int]],
    side: int,
    dims: Sequence[int],
    mlp_ratios: Sequence[float],
    depths: Sequence[int],
    head_dim: int,
    image_size: int,
) -> Space:
    """A space of blocks of one layer each; the candidates are all combinations (dim, MLP ratio, depth), in this order.

    maps: (channels, side) of the output of each block; the sides are those of the teacher's taps.
    side: side of the square of tokens, equal in all blocks.

    The first block gets the image: its patch merging is the patch embedding. Architectures are written like
    `224x2.5d3|448x4d4|...`.
    """
    before, blocks = (3, image_size), []
    for after in maps:
        candidates = [ViTSpec(*before, side, *after, dim, ratio, depth, head_dim)
                      for dim, ratio, depth in itertools.product(dims, mlp_ratios, depths)]  # fmt: skip
        blocks.append((Cell((tuple(candidates),)),))
        before = after
    return Space(name, tuple(blocks), None, ViTHeadSpec(before[0]), image_size, _notation(candidates), kind="vit")


def _notation(candidates: Sequence[ViTSpec]) -> Notation:
    """Notation by the candidates' labels, which are equal in all blocks."""
    labels = [spec.label for spec in candidates]

    def read(text: str) -> Architecture | None:
        parts = text.split("|")
        known = all(part in labels for part in parts)
        return Architecture.of((0, (labels.index(part),)) for part in parts) if known else None

    return Notation(lambda architecture: "|".join(labels[choice.path[0]] for choice in architecture), read)


def vit_dna() -> Space:
    """The ViT space of DNA and DNA++ (section 4.2): 64^4 = 16,777,216 architectures for 224x224 images.

    Width 224 to 448 by 32 with 32 per head, MLP ratio 2.5 to 4 by 0.5, 3 or 4 layers in each of 4 blocks, on 14x14
    tokens. The maps between the blocks have the sides of EfficientNet-B1's `blocks.2`, `.3`, `.4` and `.6`. The paper
    does not give their width: here it is 448 values per token, so that no candidate is narrowed between blocks.
    """
    maps = ((112, 28), (448, 14), (448, 14), (448, 7))
    return vit("vit-dna", maps, 14, range(224, 449, 32), (2.5, 3.0, 3.5, 4.0), (3, 4), 32, 224)


def vit_mini() -> Space:
    """A ViT space for 32x32 images and two CPU cores: 12^4 = 20,736 architectures, on 8x8 tokens."""
    maps = ((16, 16), (64, 8), (64, 8), (64, 4))
    return vit("vit-mini", maps, 8, (32, 48, 64), (2.0, 4.0), (1, 2), 16, 32)
