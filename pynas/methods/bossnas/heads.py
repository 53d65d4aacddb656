"""Heads that turn the output of any path of a block into a vector of one length."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from pynas.errors import InputError


class Fix(nn.Module):
    """Map features of every width that a block can end with to one width: 1x1 convolution and batch norm per width.

    With one width alone, features pass unchanged. In HyTra a width also stands for a scale.
    """

    def __init__(self, widths: Iterable[int], width: int):
        super().__init__()
        widths = sorted(set(widths))
        convolutions = {str(w): nn.Conv2d(w, width, 1, bias=False) for w in widths}
        self.by_width = nn.ModuleDict(
            {} if widths == [width] else {w: nn.Sequential(c, nn.BatchNorm2d(width)) for w, c in convolutions.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], C of the widths -> [B, width, H, W].

        Raises:
            InputError: another number of channels.
        """
        if not len(self.by_width):
            return x
        name = str(x.shape[1])
        if name not in self.by_width:
            raise InputError(f"[heads] expected {' or '.join(self.by_width)} channels, got {name}")
        return self.by_width[name](x)


class Pool(nn.Module):
    """Mean over space: [B, C, H, W] -> [B, C]; vectors pass unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim > 2 else x


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """BYOL's projector and predictor: linear, batch norm, ReLU, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
                         nn.Linear(hidden, outputs))  # fmt: skip


class PathHead(nn.Module):
    """Head of a block: `fix` the width, mean over space, `top`; [B, C, H, W] of any path -> vectors [B, D]."""

    def __init__(self, widths: Iterable[int], width: int, **parts: nn.Module):
        super().__init__()
        self.width, self.fix, self.pool = width, Fix(widths, width), Pool()
        self.top = nn.Sequential()
        for name, part in parts.items():
            self.top.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Input of `top`, `[B, width]`."""
        return self.pool(self.fix(x))
