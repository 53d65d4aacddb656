"""Slimmable layers: every prefix of a layer's channels is a layer with the leading weights (Yu et al., ICLR 2019).

A layer takes the width of its input from the tensor; the width of its output is an argument. A batch norm is switchable:
there is one per width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.copies import copy_module
from pynas.errors import InputError


class SlimmableConv2d(nn.Module):
    """A convolution y = x * W[:width, :C] without bias, for an input of C channels, that keeps the size at stride 1.

    weight: [out_channels, in_channels, kernel, kernel], as torch initialises it at full width.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Conv2d(in_channels, out_channels, kernel, bias=False).weight
        self.stride = stride

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """x: [B, C, H, W] -> [B, width, H / stride, W / stride]; width: None for the widest."""
        return F.conv2d(x, self.weight[:width, : x.shape[1]], None, self.stride, self.weight.shape[2] // 2)

    def forward_widths(self, x: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """`forward` at each of the widths, as prefixes of the widest output."""
        widest = self(x, max(widths))
        return [prefix(widest, width) for width in widths]

    def extract(self, in_channels: int, width: int | None = None) -> nn.Conv2d:
        """Plain convolution with a copy of the slice."""
        weight = self.weight[:width, :in_channels]
        out, kernel = weight.shape[0], weight.shape[2]
        conv = nn.Conv2d(in_channels, out, kernel, self.stride, kernel // 2, bias=False, device="meta")
        conv.weight = _copied(weight, self.weight)
        return conv


class SlimmableLinear(nn.Module):
    """A linear layer y = x W[:width, :C]^T + b[:width] for an input of C features.

    weight: [out_features, in_features]; bias: [out_features].
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        full = nn.Linear(in_features, out_features)
        self.weight, self.bias = full.weight, full.bias

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """x: [..., C] -> [..., width]; width: None for the widest."""
        return F.linear(x, self.weight[:width, : x.shape[-1]], self.bias[:width])

    def extract(self, in_features: int, width: int | None = None) -> nn.Linear:
        """Plain linear layer with a copy of the slice."""
        weight = self.weight[:width, :in_features]
        linear = nn.Linear(in_features, weight.shape[0], device="meta")
        linear.weight, linear.bias = _copied(weight, self.weight), _copied(self.bias[:width], self.bias)
        return linear


class Switchable(nn.Module):
    """One module `make(width)` per width of the input; a switchable batch norm with `make=nn.BatchNorm2d`.

    Raises `InputError` on an input of another width.
    """

    def __init__(self, widths: Iterable[int], make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.of_width = nn.ModuleDict({str(width): make(width) for width in widths})

    def at(self, width: int) -> nn.Module:
        """Module for inputs of a width."""
        if str(width) not in self.of_width:
            raise InputError(f"[Switchable] expected an input of {', '.join(self.of_width)} channels, got {width}")
        return self.of_width[str(width)]

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, width, ...]."""
        return self.at(x.shape[1])(x)

    def extract(self, shape: Sequence[int]) -> nn.Module:
        """Copy of the module for inputs of `shape` `(width, ...)` (without the batch axis)."""
        return copy_module(self.at(shape[0]))


class AtWidth(nn.Module):
    """A candidate: a slimmable layer at one output width. The candidates of a layer share one `layer`.

    layer: has `forward(x, width)`, `forward_widths(x, widths)`, which returns `forward` at each width and computes the
        common part once, and `extract(in_channels, width)`.
    """

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.width = layer, width

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, ...] -> [B, width, ...]."""
        return self.layer(x, self.width)

    @classmethod
    def run_together(cls, candidates: Sequence[AtWidth], x: Tensor) -> list[Tensor]:
        """Output of each candidate; their common part is computed once, at the widest."""
        return candidates[0].layer.forward_widths(x, [candidate.width for candidate in candidates])  # type: ignore

    def extract(self, shape: Sequence[int]) -> nn.Module:
        """Plain module with copies of the slices for an input of `shape` (without the batch axis)."""
        return self.layer.extract(shape[0], self.width)  # type: ignore


def prefix(x: Tensor, width: int) -> Tensor:
    """First `width` channels of x `[B, C, ...]`, contiguous in x's memory format; x itself where it has no more."""
    if width == x.shape[1]:
        return x
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x[:, :width].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _copied(part: Tensor, whole: Tensor) -> nn.Parameter:
    copied = part.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copied, whole.requires_grad)
