"""Exchange of images between processes, so that batch norm in each sees a random part of them (MoCo)."""

from __future__ import annotations

import torch
from torch import distributed


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def shuffled(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return this process's share of all processes' images in a random order, and the order; None for one process.

    images: [B, ...], B the same in every process.
    """
    if not _distributed():
        return images, None
    everything = _gather(images)
    order = torch.randperm(len(everything), device=images.device)
    distributed.broadcast(order, 0)
    return everything[_own(order)], order


def unshuffled(features: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Return the features `[B, D]` of the images that this process passed to `shuffled`."""
    if order is None:
        return features
    return _gather(features)[_own(torch.argsort(order))]


def gathered(features: torch.Tensor) -> torch.Tensor:
    """Concatenate the features `[B, D]` of all processes."""
    return _gather(features) if _distributed() else features


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    parts = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
    ]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _own(order: torch.Tensor) -> torch.Tensor:
    return order.view(distributed.get_world_size(), -1)[distributed.get_rank()]
