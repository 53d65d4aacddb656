"""Parts of NAS-Bench-201's networks: the operations of an edge, and the residual block between stages."""

from __future__ import annotations

import torch
from torch import nn

from pynas.errors import InputError
from pynas.nn.batch_norm import batch_norm_act
from pynas.nn.drop import dropped


class ReLUConvBN(nn.Module):
    """ReLU, a convolution without bias that keeps the size at stride 1, batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] -> [B, out_channels, H / stride, W / stride]."""
        return batch_norm_act(self.bn, self.conv(torch.relu(x)))


class Zero(nn.Module):
    """No connection: zeros of the input's shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: any shape."""
        return torch.zeros_like(x)


class ResidualReduction(nn.Module):
    """Residual block that halves the side: two ReLU-conv3x3-BN, the first with stride 2, and a shortcut of average pooling
    and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv_a = ReLUConvBN(in_channels, out_channels, 3, 2)
        self.conv_b = ReLUConvBN(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(in_channels, out_channels, 1, bias=False))
        self.drop_path: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] with even sides -> [B, out_channels, H / 2, W / 2]."""
        return self.shortcut(x) + dropped(self.conv_b(self.conv_a(x)), self.drop_path)


def edge_operation(op: str, channels: int) -> nn.Module:
    """Build the operation of a name in the benchmark, for `channels` in and out.

    Raises:
        InputError: an unknown name.
    """
    if op in ("nor_conv_1x1", "nor_conv_3x3"):
        return ReLUConvBN(channels, channels, int(op[-1]))
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    if op == "skip_connect":
        return nn.Identity()
    if op == "none":
        return Zero()
    raise InputError(f"[nasbench201] expected an operation of the benchmark, got {op!r}")
