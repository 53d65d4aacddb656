"""AutoFormer spaces: vision transformers whose width, depth, heads and MLP ratios are searchable (PreNAS, table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell
from pynas.spaces.space import Space


@dataclass(frozen=True)
class TransformerSpec:
    """A pre-norm transformer layer: attention with `heads` heads of `head_dim` each, then an MLP of `hidden` features."""

    dim: int
    heads: int
    head_dim: int
    ratio: float

    @property
    def hidden(self) -> int:
        """Features inside the MLP, rounded down as in AutoFormer."""
        return int(self.dim * self.ratio)

    @property
    def label(self) -> str:
        """`4 heads, MLP 3.5`."""
        return f"{self.heads} heads, MLP {self.ratio:g}"


@dataclass(frozen=True)
class PatchSpec:
    """An embedding of square patches, with a class token and learned absolute positions.

    max_distance: largest distance in rows or columns that the layers' relative positions distinguish.
    """

    patch: int
    max_distance: int


def autoformer(
    name: str,
    dims: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[float],
    *,
    qkv_dim: int,
    patch: int = 16,
    image_size: int = 224,
    max_distance: int = 14,
) -> Space:
    """A space of one block. Its cells are pairs (embedding dimension, depth), ordered by dimension; a layer chooses
    (heads, MLP ratio).

    qkv_dim: width of queries, keys and values with the most heads; every head has `qkv_dim / max(heads)` channels.

    Raises:
        InputError: an empty, unordered or non-positive choice, or heads or patches that do not divide.
    """
    for name_of_choice, values in (("dims", dims), ("depths", depths), ("heads", heads), ("ratios", ratios)):
        if not values or min(values) <= 0 or list(values) != sorted(set(values)):
            raise InputError(f"[{name}] expected positive {name_of_choice} in rising order, got {list(values)}")
    if qkv_dim % max(heads):
        raise InputError(f"[{name}] expected a number of heads that divides the q-k-v dimension {qkv_dim}, "
                         f"got {max(heads)}")  # fmt: skip
    if image_size % patch:
        raise InputError(f"[{name}] expected patches that divide the image's side {image_size}, got {patch}")
    head_dim = qkv_dim // max(heads)
    cells = []
    for dim in dims:
        layer = tuple(TransformerSpec(dim, h, head_dim, float(r)) for h in heads for r in ratios)
        cells += [Cell((layer,) * depth) for depth in depths]
    return Space(name, (tuple(cells),), PatchSpec(patch, max_distance), None, image_size, describe=describe,
                 kind="autoformer")  # fmt: skip


def describe(space: Space, architecture: Architecture) -> dict[str, Any]:
    """Choices of an architecture by name: dim, depth, and each layer's heads and MLP ratio."""
    choice = architecture[0]
    specs = [layer[c] for layer, c in zip(space.blocks[0][choice.cell].layers, choice.path)]
    return {"dim": specs[0].dim, "depth": len(specs), "heads": [spec.heads for spec in specs],
            "ratios": [spec.ratio for spec in specs]}  # fmt: skip


def autoformer_tiny() -> Space:
    """AutoFormer-tiny: 3 x (4^12 + 4^13 + 4^14) = 1,056,964,608 architectures of 5.4 to 10.5 million parameters."""
    return autoformer("autoformer-tiny", (192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4), qkv_dim=256)


def autoformer_small() -> Space:
    """AutoFormer-small: 3 x (9^13 + 9^14) architectures of 13 to 34 million parameters."""
    return autoformer("autoformer-small", (320, 384, 448), (13, 14), (5, 6, 7), (3, 3.5, 4), qkv_dim=448)


def autoformer_base() -> Space:
    """AutoFormer-base: 3 x (6^14 + 6^15 + 6^16) architectures of 42 to 76 million parameters."""
    return autoformer("autoformer-base", (528, 576, 624), (14, 15, 16), (9, 10), (3, 3.5, 4), qkv_dim=640)


def autoformer_mini() -> Space:
    """A small AutoFormer for 32x32 images that two CPU cores can train: 2 x (4^4 + 4^5 + 4^6) architectures."""
    return autoformer("autoformer-mini", (64, 96), (4, 5, 6), (2, 3), (2, 3), qkv_dim=96,
                      patch=4, image_size=32, max_distance=7)  # fmt: skip
