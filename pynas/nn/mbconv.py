"""The inverted bottleneck of MobileNetV2 with squeeze-excitation, as in EfficientNet."""

from __future__ import annotations

import torch
from torch import nn

from pynas.nn.batch_norm import conv_bn
from pynas.nn.drop import dropped
from pynas.nn.squeeze_excitation import SqueezeExcitation


class MBConv(nn.Module):
    """Inverted bottleneck: expand 1x1 (none at ratio 1), depth-wise kxk, squeeze-excitation, project 1x1, residual.

    The squeeze has `in_channels * se_ratio` channels, and there is none at ratio 0. The residual is added where the stride is 1 and
    the widths are equal.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, expand: int, stride: int = 1, se_ratio: float = 0.25
    ):
        super().__init__()
        hidden = in_channels * expand
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = conv_bn(in_channels, hidden) if expand != 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        reduced = max(1, int(in_channels * se_ratio))
        self.se = SqueezeExcitation(hidden, reduced) if se_ratio else nn.Identity()
        self.project = conv_bn(hidden, out_channels, activation=None)
        if self.residual:
            self.drop_path: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] -> [B, out_channels, H / stride, W / stride]."""
        y = self.se(self.depthwise(self.expand(x)))
        if self.residual and self.training and self.drop_path is None:
            return self.project(y, residual=x)
        y = self.project(y)
        return x + dropped(y, self.drop_path) if self.residual else y
