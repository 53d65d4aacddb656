"""Networks for images of another size than they were trained with: learned positions are resampled, as in timm."""

from __future__ import annotations

from torch import nn

from pynas.errors import InputError
from pynas.supernets.shapes import output_shape


def resize_positions(model: nn.Module, old: int, new: int) -> None:
    """Resample a network's learned positions, made for images of `old` x `old`, for `new` x `new`, in place.

    Networks without learned positions take images of any size and stay as they are. Source: timm's `img_size`.

    Raises:
        InputError: a size that the patches do not divide, or that the network does not run on.
    """
    if new < 1:
        raise InputError(f"[export] expected an image size of at least 1 pixel, got {new}")
    parts = [part for part in model.modules() if hasattr(part, "resize_positions")]
    if old == new or not parts:
        return
    for part in parts:
        part.resize_positions(old, new)  # type: ignore[operator]
    output_shape(model, (3, new, new))


def follow_image_size(model: nn.Module) -> None:
    """Have a network resample its learned positions to each batch's square images, in place (timm's `dynamic_img_size`)."""
    for part in model.modules():
        if hasattr(part, "resize_positions"):
            part.dynamic = True  # type: ignore[assignment]
