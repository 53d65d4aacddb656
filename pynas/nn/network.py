"""The parts around the blocks: stems and classification heads."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from pynas.nn.batch_norm import conv_bn
from pynas.nn.mbconv import MBConv


def stem(channels: int, stride: int, mb1_channels: int | None = None, se_ratio: float = 0.25) -> nn.Sequential:
    """Build a 3x3 convolution of the image, and an MB1 k3 block after it where `mb1_channels` is given.

    se_ratio: of that block (`MBConv`).
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv_bn(3, channels, 3, stride))
    if mb1_channels is not None:
        parts["mb1"] = MBConv(channels, mb1_channels, 3, 1, se_ratio=se_ratio)
    return nn.Sequential(parts)


class Head(nn.Module):
    """An optional fixed MB6 k3 block, a 1x1 convolution, average pool, dropout, classifier.

    se_ratio: of the MB6 block (`MBConv`).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        mb6_channels: int | None = None,
        dropout: float = 0.0,
        se_ratio: float = 0.25,
    ):
        super().__init__()
        self.mb6 = MBConv(in_channels, mb6_channels, 3, 6, se_ratio=se_ratio) if mb6_channels else nn.Identity()
        self.conv = conv_bn(mb6_channels or in_channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] -> input of the classifier, `[B, channels]`."""
        return self.dropout(self.conv(self.mb6(x)).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] -> logits [B, num_classes]."""
        return self.classifier(self.features(x))
