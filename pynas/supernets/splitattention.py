"""The supernet of `splitattention`: timm's split-attention bottlenecks, a layer's candidates with a shared shortcut."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg
from torch import nn

from pynas.nn.batch_norm import NormSequential, batch_norm_act
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


class SplitAttentionBottleneck(ResNestBottleneck):
    """timm's bottleneck, whose batch norms run with the activation and the shortcut after them (`batch_norm_act`)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> [B, 4 channels, H / stride, W / stride]."""
        if not self.training or getattr(self, "drop_path", None) is not None or self.avd_first is not None:
            return super().forward(x)
        y = self.conv2(batch_norm_act(self.bn1, self.conv1(x), self.act1))
        if not isinstance(self.bn2, nn.Identity):  # without split attention, which has it inside
            y = batch_norm_act(self.bn2, y, self.act2)
        y = self.conv3(y if self.avd_last is None else self.avd_last(y))
        return batch_norm_act(self.bn3, y, self.act3, x if self.downsample is None else self.downsample(x))


def split_attention(spec: SplitAttentionSpec, shortcut: nn.Module | None = None) -> nn.Module:
    """Build a bottleneck with average pooling for its stride.

    shortcut: None for a new one, where the shortcut is not an identity.
    """
    if shortcut is None and spec.has_shortcut:
        shortcut = down_sample(spec)
    return SplitAttentionBottleneck(
        spec.in_channels, spec.channels, spec.stride, shortcut, radix=spec.radix, cardinality=spec.cardinality,
        base_width=spec.width, avd=True, avd_first=False,
    )  # fmt: skip


def down_sample(spec: SplitAttentionSpec) -> nn.Module:
    """Build ResNet-D's shortcut: average pooling, a 1x1 convolution, batch norm."""
    shortcut: Any = downsample_avg(spec.in_channels, EXPANSION * spec.channels, 1, spec.stride)
    return NormSequential(*shortcut)


def deep_stem(spec: DeepStemSpec) -> NormSequential:
    """Build three 3x3 convolutions with batch norm and ReLU, then the pooling."""
    parts: list[nn.Module] = []
    for inputs, outputs, stride in ((3, spec.width, spec.stride), (spec.width, spec.width, 1),
                                    (spec.width, spec.out_channels, 1)):  # fmt: skip
        parts += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return NormSequential(*parts, *([nn.MaxPool2d(3, 2, 1)] if spec.pool else []))


def split_attention_net(space: Space, num_classes: int) -> Supernet:
    """Build the supernet; all candidates of a layer hold its shared shortcut, with one set of weights."""
    blocks = [[[_layer(candidates) for candidates in cell.layers] for cell in cells] for cells in space.blocks]
    head = PooledHead(space.head.in_channels, num_classes)
    return Supernet(blocks, deep_stem(space.stem), head, space)


def _layer(candidates: tuple[Any, ...]) -> list[nn.Module]:
    first: SplitAttentionSpec = candidates[0]
    shared = down_sample(first) if first.has_shortcut and first.shared_shortcut else None
    return [split_attention(spec, shared) for spec in candidates]
