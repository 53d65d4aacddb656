"""The supernet of `splitattention`: timm's split-attention bottlenecks, a layer's candidates with a shared shortcut."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg
from torch import nn

from pynas.spaces import Space
from pynas.spaces.splitattention import EXPANSION, DeepStemSpec, SplitAttentionSpec
from pynas.supernets.supernet import Supernet


class PooledHead(nn.Module):
    """Average pool and classifier."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> input of the classifier, `[B, C]`."""
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> logits `[B, classes]`."""
        return self.classifier(self.features(x))


def split_attention(spec: SplitAttentionSpec, shortcut: nn.Module | None = None) -> nn.Module:
    """Build a bottleneck with average pooling for its stride.

    shortcut: None for a new one, where the shortcut is not an identity.
    """
    if shortcut is None and spec.has_shortcut:
        shortcut = down_sample(spec)
    return ResNestBottleneck(
        spec.in_channels, spec.channels, spec.stride, shortcut, radix=spec.radix, cardinality=spec.cardinality,
        base_width=spec.width, avd=True, avd_first=False,
    )  # fmt: skip


def down_sample(spec: SplitAttentionSpec) -> nn.Module:
    """Build ResNet-D's shortcut: average pooling, a 1x1 convolution, batch norm."""
    return downsample_avg(spec.in_channels, EXPANSION * spec.channels, 1, spec.stride)


def deep_stem(spec: DeepStemSpec) -> nn.Sequential:
    """Build three 3x3 convolutions with batch norm and ReLU, then the pooling."""
    parts: list[nn.Module] = []
    for inputs, outputs, stride in ((3, spec.width, spec.stride), (spec.width, spec.width, 1),
                                    (spec.width, spec.out_channels, 1)):  # fmt: skip
        parts += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, *([nn.MaxPool2d(3, 2, 1)] if spec.pool else []))


def split_attention_net(space: Space, num_classes: int) -> Supernet:
    """Build the supernet; all candidates of a layer hold its shared shortcut, with one set of weights."""
    blocks = [[[_layer(candidates) for candidates in cell.layers] for cell in cells] for cells in space.blocks]
    head = PooledHead(space.head.in_channels, num_classes)
    return Supernet(blocks, deep_stem(space.stem), head, space)


def _layer(candidates: tuple[Any, ...]) -> list[nn.Module]:
    first: SplitAttentionSpec = candidates[0]
    shared = down_sample(first) if first.has_shortcut and first.shared_shortcut else None
    return [split_attention(spec, shared) for spec in candidates]
