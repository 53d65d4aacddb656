"""Depth-wise convolution with a fast gradient in the weight on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pynas.ops import _library as native

KERNELS = (5, 7)
# Images in one partial sum; bytes of x that the kernel keeps at a time.
_IMAGES, _PIECE = 8, 2**16


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    """Convolve each channel of x `[B, C, H, W]` with its own kernel: `F.conv2d` with C groups; weight `[C, 1, K, K]`.

    torch's gradient in a 5x5 or 7x7 weight takes several times as long on a CPU as the convolution itself. Here a kernel sums
    it with a vector of channels at a time, for x on the CPU, in channels-last order, and K of 5 or 7; all else is torch's.

    Raises `InputError` on shapes, dtypes or devices that do not fit.
    """
    _check(x, weight, stride, padding)
    if not _fits(x, weight, padding):
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])
    return _Depthwise.apply(x, weight, stride, padding)


def _check(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> None:
    name = "depthwise_conv2d"
    native.require_tensor(name, "x", x)
    native.require_tensor(name, "weight", weight, like=x)
    native.require(x.dim() == 4, name, "x of shape [B, C, H, W]", list(x.shape))
    kernel = weight.shape[-1]
    expected = (x.shape[1], 1, kernel, kernel)
    native.require(weight.shape == expected, name, f"weight of shape [{x.shape[1]}, 1, K, K]", list(weight.shape))
    native.require(
        stride >= 1 and padding >= 0, name, "a stride of at least 1 and no negative padding", (stride, padding)
    )
    native.require(min(x.shape[2:]) + 2 * padding >= kernel, name, f"x of at least {kernel} rows and columns with its padding",
                   list(x.shape))  # fmt: skip


def _fits(x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and weight.requires_grad
        and x.numel() > 0
        and weight.shape[-1] in KERNELS
        and native.memory_format(x) == torch.channels_last
        and weight.shape[-1] * (x.shape[3] + 2 * padding) * 64 <= _PIECE
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, y_gradient):
        (x, weight), (stride, padding) = ctx.saved_tensors, ctx.settings
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for a second derivative
            y = F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])
            inputs = [tensor for tensor, need in zip((x, weight), needs) if need]
            found = iter(torch.autograd.grad(y, inputs, y_gradient, create_graph=True))
            return next(found) if needs[0] else None, next(found) if needs[1] else None, None, None
        x_gradient = None
        if needs[0]:
            x_gradient = torch.ops.aten.convolution_backward(
                y_gradient,
                x,
                weight,
                None,
                [stride] * 2,
                [padding] * 2,
                [1, 1],
                False,
                [0, 0],
                x.shape[1],
                [True, False, False],
            )[0]
        weight_gradient = (
            _weight_gradient(x, y_gradient, weight.shape[-1], stride, padding).to(weight.dtype) if needs[1] else None
        )
        return x_gradient, weight_gradient, None, None


def _gradient_check(x, y_gradient, kernel: int, stride: int, padding: int) -> None:
    name = "depthwise_weight_gradient"
    native.require_tensor(name, "x", x)
    native.require_tensor(name, "y_gradient", y_gradient, like=x)
    native.require(x.device.type in ("cpu", "meta"), name, "x on the CPU", x.device)
    native.require(x.dim() == 4 and y_gradient.dim() == 4, name, "x and y_gradient of four axes", list(x.shape))
    native.require(kernel in KERNELS, name, f"a kernel of {', '.join(map(str, KERNELS))}", kernel)
    native.require(
        stride >= 1 and padding >= 0, name, "a stride of at least 1 and no negative padding", (stride, padding)
    )
    native.require(kernel * (x.shape[3] + 2 * padding) * 64 <= _PIECE, name,
                   f"at most {_PIECE // 64 // kernel} columns with their padding", x.shape[3] + 2 * padding)  # fmt: skip
    side = [(size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:]]
    expected = [x.shape[0], x.shape[1], *side]
    native.require(
        min(side) >= 1 and list(y_gradient.shape) == expected,
        name,
        f"y_gradient of shape {expected}",
        list(y_gradient.shape),
    )


def _depthwise_weight_gradient(x, y_gradient, kernel, stride, padding):
    """Return the gradient of the weight `[C, 1, K, K]`, float32 for half types."""
    _gradient_check(x, y_gradient, kernel, stride, padding)
    (batch, channels, height, width), dtype = x.shape, native.accumulate_dtype(x.dtype)
    weight_gradient = x.new_empty((channels, 1, kernel, kernel), dtype=dtype)
    if x.numel() == 0:
        return weight_gradient.zero_()
    native.run(
        "depthwise_weight_gradient",
        x=x.contiguous(memory_format=torch.channels_last),
        y_gradient=y_gradient.contiguous(memory_format=torch.channels_last),
        partial=x.new_empty((-(-batch // _IMAGES), kernel * kernel, channels), dtype=torch.float64),
        weight_gradient=weight_gradient,
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_height=y_gradient.shape[2],
        out_width=y_gradient.shape[3],
        kernel=kernel,
        stride=stride,
        padding=padding,
        images=_IMAGES,
        dtype=x.dtype,
        threads=native.threads(),
    )
    return weight_gradient


def _fake(x, y_gradient, kernel, stride, padding):
    _gradient_check(x, y_gradient, kernel, stride, padding)
    return x.new_empty((x.shape[1], 1, kernel, kernel), dtype=native.accumulate_dtype(x.dtype))


_weight_gradient = native.define(
    "depthwise_weight_gradient",
    "(Tensor x, Tensor y_gradient, int kernel, int stride, int padding) -> Tensor",
    _depthwise_weight_gradient,
    _fake,
)
