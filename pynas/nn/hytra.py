"""The residual bottlenecks of HyTra: a 3x3 convolution (ResConv) or self-attention (ResAtt) in the middle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.nn.batch_norm import ACTIVATIONS, NormSequential, batch_norm_act, conv_bn
from pynas.nn.drop import dropped
from pynas.nn.squeeze_excitation import SqueezeExcitation

# Channels of a bottleneck's output per channel in its middle, and per channel of the squeeze.
_EXPANSION, _SQUEEZE = 4, 16


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions, softmax(q k^T / sqrt(d)) v, without position terms of its own."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        if channels % head_channels:
            raise InputError(f"[hytra] expected channels in heads of {head_channels}, got {channels}")
        self.heads = channels // head_channels
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> a tensor of that shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).reshape(batch, 3, self.heads, channels // self.heads, height * width).transpose(3, 4)
        y = functional.scaled_dot_product_attention(*qkv.unbind(1))
        return y.transpose(2, 3).reshape(batch, channels, height, width)


class Entry(nn.Module):
    """Entry of a bottleneck for inputs of one width: projection to the middle, position encoding, norm; and the shortcut.

    The implicit position encoding is a depth-wise 3x3 convolution, which also down-samples (section 4.1). The shortcut has
    an average pool where the stride is above 1, and a 1x1 convolution where the width or the size changes.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, stride: int):
        super().__init__()
        self.project = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.position = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle)
        self.norm = nn.BatchNorm2d(middle)
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if stride > 1:
            shortcut["pool"] = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        if stride > 1 or in_channels != out_channels:
            shortcut["conv"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            shortcut["bn"] = nn.BatchNorm2d(out_channels)
        self.shortcut = NormSequential(shortcut)

    def forward(self, x: torch.Tensor, act: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [B, in_channels, H, W] -> the middle's input after `act`, and the shortcut, both of size H / stride, W / stride."""
        return batch_norm_act(self.norm, self.position(self.project(x)), act), self.shortcut(x)


class Bottleneck(nn.Module):
    """A ResConv or ResAtt: 1x1 convolution, position encoding, 3x3 convolution or self-attention, 1x1 convolution.

    operation: "conv" or "attention". inputs: (channels, stride) of each kind of input, which the module tells by its
        width. They share the weights of the position encoding and of all layers after it (section 4.1).

    Raises:
        InputError: an unknown operation; when called, an input of another width.
    """

    def __init__(
        self,
        operation: str,
        inputs: Sequence[tuple[int, int]],
        out_channels: int,
        head_channels: int = 64,
        se: bool = False,
        activation: str = "relu",
    ):
        super().__init__()
        middle, act = out_channels // _EXPANSION, ACTIVATIONS[activation]
        if operation not in ("conv", "attention"):
            raise InputError(f"[hytra] expected the operation to be conv or attention, got {operation!r}")
        entries = {str(width): Entry(width, middle, out_channels, stride) for width, stride in inputs}
        first, *others = entries.values()
        for other in others:
            other.position.weight, other.position.bias = first.position.weight, first.position.bias
        self.entries = nn.ModuleDict(entries)
        conv = operation == "conv"
        mix = nn.Conv2d(middle, middle, 3, padding=1, bias=False) if conv else SelfAttention(middle, head_channels)
        self.act1 = act(inplace=True)
        self.mix, self.norm2, self.act2 = mix, nn.BatchNorm2d(middle), act(inplace=True)
        self.expand, self.norm3 = nn.Conv2d(middle, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        squeezed = se and conv
        self.se = SqueezeExcitation(out_channels, out_channels // _SQUEEZE) if squeezed else nn.Identity()
        self.act3 = act(inplace=True)
        self.drop_path: nn.Module | None = None

    def entry(self, width: int) -> nn.Module:
        """Entry for inputs of a width."""
        if str(width) not in self.entries:
            raise InputError(f"[hytra] expected an input of {' or '.join(self.entries)} channels, got {width}")
        return self.entries[str(width)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, in_channels, H, W] -> [B, out_channels, H / stride, W / stride]."""
        (only,) = self.entries.values() if len(self.entries) == 1 else (self.entry(x.shape[1]),)
        y, shortcut = only(x, self.act1)
        y = self.expand(batch_norm_act(self.norm2, self.mix(y), self.act2))
        if self.training and self.drop_path is None and isinstance(self.se, nn.Identity):
            return batch_norm_act(self.norm3, y, self.act3, shortcut)
        return self.act3(dropped(self.se(self.norm3(y)), self.drop_path) + shortcut)

    def extract(self, shape: tuple[int, ...]) -> Bottleneck:
        """Copy for inputs of one shape `(C, H, W)`."""
        entry = self.entry(shape[0])
        unused = {id(other): None for other in self.entries.values() if other is not entry}
        plain = copy_module(self, unused)
        plain.entries = nn.ModuleDict({str(shape[0]): plain.entries[str(shape[0])]})
        return plain


def stand_in(in_channels: int, out_channels: int, stride: int, groups: int, activation: str) -> NormSequential:
    """Build the stand-in of a scale without layers: a grouped 3x3 convolution, batch norm, activation."""
    return conv_bn(in_channels, out_channels, 3, stride, groups, activation)


class Framed(nn.Module):
    """A bottleneck between stand-ins of other scales."""

    def __init__(self, before: Sequence[nn.Module], layer: Bottleneck, after: Sequence[nn.Module]):
        super().__init__()
        self.before, self.layer, self.after = nn.Sequential(*before), layer, nn.Sequential(*after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W]."""
        return self.after(self.layer(self.before(x)))

    def extract(self, shape: tuple[int, ...]) -> Framed:
        """Copy for inputs of one shape `(C, H, W)`."""
        parts = copy_module((list(self.before), list(self.after)))
        width: Any = self.before[-1].conv.out_channels if len(self.before) else shape[0]  # type: ignore[union-attr]
        return Framed(parts[0], self.layer.extract((width,)), parts[1])


def image_stem(channels: int, kernel: int, pool: bool, activation: str) -> NormSequential:
    """Build ResNet's stem: a convolution of stride 2, batch norm, activation, and a 3x3 max-pool of stride 2 if `pool`."""
    stem = conv_bn(3, channels, kernel, 2, activation=activation)
    if pool:
        stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
    return stem


def pooled_classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Build a head: average pool and a linear classifier."""
    return nn.Sequential(
        OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(channels, num_classes))
    )
