"""Squeeze-excitation of layers; in training on a CPU one kernel does all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pynas.nn.hooks import hooked
from pynas.ops import _library as native
from pynas.ops import squeeze_excitation

# Bytes of an input from which the kernel is faster than torch's operators one by one, for batches of 16 and more; smaller ones of
# up to 256 KiB take about as long by either, since Python's part of the call counts.
_LEAST_BYTES = {"cpu": 2**16}


class SqueezeExcitation(nn.Module):
    """Channel gates computed from the mean over space: x * sigmoid(expand(silu(reduce(mean(x)))))."""

    def __init__(self, channels: int, reduced_channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced_channels, 1)
        self.act = nn.SiLU(inplace=True)
        self.expand = nn.Conv2d(reduced_channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]."""
        y = by_kernel(self, x)
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))) if y is None else y


def by_kernel(se: Any, x: Tensor, reduced: int | None = None) -> Tensor | None:
    """Return x `[B, C, H, W]` times its gates by one kernel, with the results of the modules to rounding.

    Returns None where the modules have to run: outside training, for a small x or one on another device, or where something
    watches the modules or torch's operators (hooks, a forward of its own, torch.compile, torch.export, functorch).

    reduced: the first C channels of the `SqueezeExcitation` and this many of its squeeze, as elastic layers share them. None:
        all, which x has to have.
    """
    if not (se.training and _fits(se, x, reduced is None)):
        return None
    channels, reduced = x.shape[1], se.reduce.out_channels if reduced is None else reduced
    return squeeze_excitation(
        x,
        _leading(se.reduce.weight, reduced, channels),
        _leading(se.reduce.bias, reduced),
        _leading(se.expand.weight, channels, reduced),
        _leading(se.expand.bias, channels),
    )


def _leading(tensor: Tensor, *sizes: int) -> Tensor:
    return tensor if tensor.shape[: len(sizes)] == sizes else tensor[tuple(slice(size) for size in sizes)]


def _fits(se: Any, x: Tensor, whole: bool) -> bool:
    """Whether the kernel may run in the place of the modules, with a result of their type."""
    return (
        type(x) is Tensor
        and native.unwatched(x)
        and x.numel() * x.element_size() >= _LEAST_BYTES.get(x.device.type, 2**62)
        and x.dim() == 4
        and x.dtype in native.FLOATING
        and all(_plain(conv, x) for conv in (se.reduce, se.expand))
        and (x.shape[1] == se.reduce.in_channels if whole else 0 < x.shape[1] <= se.reduce.in_channels)
        and type(se.act) is nn.SiLU
        and type(se.gate) is nn.Sigmoid
        and not any(hooked(part) for part in (se.act, se.gate))
    )


def _plain(conv: Any, x: Tensor) -> bool:
    """Whether a module is a 1x1 convolution that takes x, by its type or by that of autocast."""
    if type(conv) is not nn.Conv2d or conv.bias is None or hooked(conv):
        return False
    same = x.dtype == conv.weight.dtype == conv.bias.dtype
    if torch.is_autocast_enabled("cpu"):
        cast = torch.get_autocast_dtype("cpu")
        same = conv.weight.dtype != torch.float64 and torch.promote_types(x.dtype, cast) == x.dtype != torch.float64
    return same and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
