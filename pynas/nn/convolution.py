"""Convolutions of layers; in training on a CPU, depth-wise ones of 5x5 and 7x7 take a faster gradient in the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.nn.hooks import hooked
from pynas.ops import _library as native
from pynas.ops.depthwise_conv import KERNELS, depthwise_conv2d


def convolve(conv: Any, x: Tensor) -> Tensor:
    """Run a convolution module on x `[B, C, H, W]`, in training by `convolve_by` where that is the same."""
    trained = type(conv) is nn.Conv2d and conv.training and not hooked(conv)
    if (
        trained
        and conv.groups > 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.padding == (conv.padding[0],) * 2
    ):
        return convolve_by(conv, x, conv.weight, None, conv.padding[0], conv.groups)
    return conv(x)


def convolve_by(conv: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int) -> Tensor:
    """Convolve x `[B, C, H, W]` with a weight and a bias, at the stride of `conv`.

    In training, depth-wise weights `[C, 1, K, K]` of a kernel size of `KERNELS` get their gradient from
    `pynas.ops.depthwise_conv2d`, all others from torch.
    """
    if conv.training and bias is None and _fits(conv, x, weight, groups):
        if torch.is_autocast_enabled("cpu"):
            x, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, weight))
        if x.dtype == weight.dtype:
            return depthwise_conv2d(x, weight, conv.stride[0], padding)
    return F.conv2d(x, weight, bias, conv.stride, padding, groups=groups)


def _fits(conv: Any, x: Tensor, weight: Tensor, groups: int) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.dtype in native.FLOATING
        and (x.dtype != torch.float64 or not torch.is_autocast_enabled("cpu"))
        and native.unwatched(x)
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] in KERNELS
        and conv.stride[0] == conv.stride[1]
        and weight.shape[0] == x.shape[1] == groups
    )
