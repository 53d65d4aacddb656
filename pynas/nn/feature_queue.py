"""A ring buffer of feature vectors: the negative samples of a contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pynas.errors import InputError


class FeatureQueue(nn.Module):
    """Ring buffer of the last `size` feature vectors `[size, dim]`, the feature container of Pi-NAS, figure 2.

    It starts with random unit vectors, as in MoCo, and is part of the state dict; no gradient flows through it.
    `features` is not ordered by age: `position` is the index of the oldest vector, which the next one replaces.
    """

    features: torch.Tensor
    position: torch.Tensor

    def __init__(self, size: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size <= 0 or dim <= 0:
            raise InputError(f"[FeatureQueue] expected a positive size and dim, got {size} and {dim}")
        self.register_buffer("features", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, vectors: torch.Tensor) -> None:
        """Replace the oldest features by `vectors` `[B, dim]`; of more than `size` vectors, the last ones stay.

        Raises:
            InputError: vectors of another shape.
        """
        size, dim = self.features.shape
        if vectors.dim() != 2 or vectors.shape[1] != dim:
            raise InputError(f"[FeatureQueue.push] expected vectors of shape [B, {dim}], got {list(vectors.shape)}")
        first = max(len(vectors) - size, 0)
        index = (self.position + torch.arange(first, len(vectors), device=self.features.device)) % size
        self.features.index_copy_(0, index, vectors[first:].to(self.features.dtype))
        self.position.copy_((self.position + len(vectors)) % size)
