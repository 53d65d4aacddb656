"""Heads that turn the output of any path of a block into a vector of one length."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.nn.batch_norm import NormSequential


class Fix(nn.Module):
    """Map features of every width that a block can end with to one width: 1x1 convolution and batch norm per width.

    strides: by width. In HyTra a width also stands for a scale: maps that are larger than the smallest by a stride s first
    go through a depth-wise convolution of stride s, of size 2 s - 1, so that every position counts, and the 1x1 convolution
    runs at the smallest size (released code: depth-wise strided convolution, 1x1 convolution, batch norm).

    With one width alone, features pass unchanged.
    """

    def __init__(self, strides: Mapping[int, int], width: int):
        super().__init__()
        fixes = {} if list(strides) == [width] else strides
        self.by_width = nn.ModuleDict({str(w): _fix(w, width, stride) for w, stride in sorted(fixes.items())})

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], C of the widths -> [B, width, H / stride, W / stride].

        Raises:
            InputError: another number of channels.
        """
        if not len(self.by_width):
            return x
        name = str(x.shape[1])
        if name not in self.by_width:
            raise InputError(f"[heads] expected {' or '.join(self.by_width)} channels, got {name}")
        return self.by_width[name](x)


def _fix(channels: int, width: int, stride: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:
        parts["shrink"] = nn.Conv2d(channels, channels, 2 * stride - 1, stride, stride - 1, groups=channels, bias=False)
    parts["conv"], parts["bn"] = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
    return NormSequential(parts)


class Pool(nn.Module):
    """Mean over space: [B, C, H, W] -> [B, C]; vectors pass unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim > 2 else x


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """BYOL's projector and predictor: linear, batch norm, ReLU, linear."""
    return NormSequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
                          nn.Linear(hidden, outputs))  # fmt: skip


class PathHead(nn.Module):
    """Head of a block: `fix` the width and the scale, mean over space, `top`; [B, C, H, W] of any path -> vectors [B, D]."""

    def __init__(self, strides: Mapping[int, int], width: int, **parts: nn.Module):
        super().__init__()
        self.width, self.fix, self.pool = width, Fix(strides, width), Pool()
        self.top = nn.Sequential()
        for name, part in parts.items():
            self.top.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.features(x))

    def together(self, paths: Sequence[Tensor]) -> Tensor:
        """Vectors `[P, B, D]` of the outputs `[B, C, H, W]` of P paths.

        The linear layers run once on the rows of all paths, so their weights are read, and their gradients written, once for
        all. Batch norms keep the statistics of the paths apart, as `forward` of each path in turn does.
        """
        x = torch.cat([self.features(path) for path in paths])
        for part in self.top:
            x = part(x, paths=len(paths)) if isinstance(part, NormSequential) else part(x)
        return x.unflatten(0, (len(paths), -1))

    def features(self, x: Tensor) -> Tensor:
        """Input of `top`, `[B, width]`."""
        return self.pool(self.fix(x))
