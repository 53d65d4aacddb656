"""Learned positions on a square grid of patches, resampled for images of other sizes as timm does it."""

from __future__ import annotations

import math

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from pynas.errors import InputError


def positions_for(images: Tensor, position: Tensor, patch: int, prefix: int, dynamic: bool) -> Tensor:
    """Return the positions for the patches of images (or maps) `[B, C, S, S]`.

    position: `[..., prefix + N, D]`, for a square of N patches after `prefix` class tokens. dynamic: resample it for images
    of another size.

    Raises:
        InputError: images of another size, unless dynamic; images that are not square or no multiple of the patch.
    """
    side, (height, width) = patch * math.isqrt(position.shape[-2] - prefix), images.shape[2:]
    if (height, width) == (side, side):
        return position
    if not dynamic:
        raise InputError(f"[patches] expected images of {side}x{side}, got {[height, width]}: give images of that size, or load "
                         "an exported network with image_size=")  # fmt: skip
    if height != width or height % patch:
        raise InputError(
            f"[patches] expected square images whose side is a multiple of {patch}, got {[height, width]}: pad or resize them"
        )
    return resampled(position, height // patch, prefix)


def resampled(position: Tensor, side: int, prefix: int) -> Tensor:
    """Resample positions `[..., prefix + N, D]` to a square of `side` x `side` patches; those of class tokens stay."""
    dim = position.shape[-1]
    tokens = resample_abs_pos_embed(position.reshape(1, -1, dim), [side, side], num_prefix_tokens=prefix)
    return tokens.view(*position.shape[:-2], -1, dim)


def scaled_side(position: Tensor, prefix: int, old: int, new: int) -> int:
    """Side of the grid for images of `new` pixels, where that for `old` pixels has the sides of `position`.

    Raises:
        InputError: a size that no whole number of patches fills.
    """
    side, rest = divmod(math.isqrt(position.shape[-2] - prefix) * new, old)
    if rest or not side:
        multiple = old // math.gcd(old, math.isqrt(position.shape[-2] - prefix))
        raise InputError(
            f"[patches] expected an image size that is a multiple of {multiple}, got {new}: choose another"
        )
    return side
