"""Fitting a teacher's features to a student's width: a fixed 1x1 convolution from a principal component analysis."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional


class Projection(nn.Module):
    """y = W x at every position, W `[out_channels, in_channels]` with orthonormal rows (columns, when widening).

    Narrowing keeps the directions in which the features vary most (principal components of the uncentred second
    moment); widening is an isometry. W is fixed before training and is not learned: a learned adaptation on the
    student's side could do a part of the block's work, and would stay behind when the network is taken out.
    """

    weight: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.register_buffer("weight", torch.eye(out_channels, in_channels))

    @property
    def is_identity(self) -> bool:
        """Whether the widths agree, so that features pass unchanged."""
        return self.weight.shape[0] == self.weight.shape[1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features: [B, in_channels, H, W] -> [B, out_channels, H, W]."""
        if self.is_identity:
            return features
        return functional.conv2d(features, self.weight.to(features.dtype)[:, :, None, None])

    def back(self, features: torch.Tensor) -> torch.Tensor:
        """W^T y: [B, out_channels, H, W] -> [B, in_channels, H, W]; the inverse of a widening, after a narrowing the
        nearest feature that `forward` maps to y."""
        if self.is_identity:
            return features
        return functional.conv2d(features, self.weight.T.to(features.dtype)[:, :, None, None])

    @torch.no_grad()
    def fit(self, batches: Iterable[torch.Tensor]) -> None:
        """Set W from features `[B, in_channels, H, W]`; deterministic for the same features."""
        out_channels, in_channels = self.weight.shape
        if self.is_identity:
            return
        moment = torch.zeros(in_channels, in_channels, dtype=torch.float64)
        for features in batches:
            flat = features.detach().transpose(0, 1).reshape(in_channels, -1).double().cpu()
            moment += flat @ flat.T
        directions = torch.linalg.eigh(moment).eigenvectors.flip(1).T
        # An eigenvector's sign is arbitrary: its largest entry is made positive, so that machines agree.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        directions = directions * largest.sign()
        if out_channels > in_channels:
            generator = torch.Generator().manual_seed(0)
            random = torch.randn(out_channels, in_channels, dtype=torch.float64, generator=generator)
            directions = torch.linalg.qr(random).Q @ directions
        self.weight.copy_(directions[:out_channels])
