"""Views of images in batches: checks, and the device and layout they are moved to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pynas.errors import InputError


def first_view(images: Any) -> Tensor:
    """Images of a batch; the first view where there are several."""
    return images[0] if isinstance(images, (list, tuple)) else images


def check_views(images: Any, views: int) -> list[Tensor]:
    """Return the views of a training batch as a list.

    Raises:
        InputError: views that do not come in pairs, another number of them, or a batch of one image.
    """
    if not isinstance(images, (list, tuple)) or len(images) % 2:
        got = f"{len(images)} views" if isinstance(images, (list, tuple)) else "single images"
        raise InputError(f"[views] expected views in pairs, got {got}; use a loader with views={views}")
    if len(images) != views:
        rule = f"{views} views, a pair {'per path' if views > 2 else 'in all'}"
        raise InputError(f"[views] expected {rule}, got {len(images)}; use a loader with views={views}")
    if len(images[0]) < 2:
        raise InputError("[views] expected batches of at least two images, since batch norm needs them, "
                         f"got {len(images[0])}")  # fmt: skip
    return list(images)


def place(images: Tensor, device: torch.device) -> Tensor:
    """Move images to a device, channels last, the layout that convolutions run fastest in."""
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)
