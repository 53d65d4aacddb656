"""Elastic convolutions (BigNAS): a subnet uses the leading channels and the centres of the largest network's kernels."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import drop_path
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.batch_norm import batch_norm_act, conv_bn
from pynas.nn.convolution import convolve_by
from pynas.nn.mbconv import MBConv
from pynas.nn.network import Head
from pynas.nn.squeeze_excitation import by_kernel


def sliced_conv(conv: Any, x: torch.Tensor, channels: int, kernel: int = 1) -> torch.Tensor:
    """Run a convolution with its leading outputs, as many leading inputs as `x` has, and the centres of its kernels.

    A depth-wise convolution has as many groups as `x` has channels.
    """
    bias = None if conv.bias is None else conv.bias[:channels]
    inputs, groups = (x.shape[1], 1) if conv.groups == 1 else (1, x.shape[1])
    return convolve_by(conv, x, sliced_kernel(conv, channels, inputs, kernel), bias, kernel // 2, groups)


def sliced_kernel(conv: Any, channels: int, inputs: int, kernel: int) -> torch.Tensor:
    """Leading channels and centres of a convolution's weight, `[channels, inputs, kernel, kernel]`."""
    start = (conv.weight.shape[-1] - kernel) // 2
    return conv.weight[:channels, :inputs, start : start + kernel, start : start + kernel]


def elastic_conv_bn(
    weights: Any, x: torch.Tensor, channels: int, kernel: int = 1, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Run the leading channels of a convolution, batch norm and activation (`conv_bn`); residual: added before the activation."""
    y = sliced_conv(weights.conv, x, channels, kernel)
    return batch_norm_act(weights.bn, y, weights._modules.get("act"), residual, leading=True)


def elastic_squeeze_excitation(weights: Any, x: torch.Tensor, reduced: int) -> torch.Tensor:
    """Run the leading channels of a `SqueezeExcitation`, as many as x has, and `reduced` of its squeeze."""
    y = by_kernel(weights, x, reduced)
    if y is None:
        squeezed = weights.act(sliced_conv(weights.reduce, x.mean((2, 3), keepdim=True), reduced))
        y = x * weights.gate(sliced_conv(weights.expand, squeezed, x.shape[1]))
    return y


class ElasticConvBN(nn.Module):
    """The leading channels of a `conv_bn`, with whole kernels."""

    def __init__(self, weights: Any, channels: int):
        super().__init__()
        self.weights, self.channels = weights, channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> [B, channels, H / stride, W / stride]."""
        weights: Any = self.weights
        return elastic_conv_bn(weights, x, self.channels, weights.conv.kernel_size[0])

    def extract(self, shape: tuple[int, ...]) -> nn.Sequential:
        """Plain `conv_bn` with copies of the slices for an input of `shape` `(C, H, W)`."""
        weights: Any = self.weights
        conv = weights.conv
        with conv.weight.device:
            activation = "silu" if len(weights) == 3 else None
            plain = conv_bn(shape[0], self.channels, conv.kernel_size[0], conv.stride[0], activation=activation)
        copy_centres(plain, weights)
        return plain.train(self.training)


class ElasticHead(nn.Module):
    """A `Head` whose convolution has `channels` outputs, the classifier's inputs."""

    def __init__(self, weights: Any, channels: int):
        super().__init__()
        self.weights, self.channels = weights, channels

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> input of the classifier, `[B, channels]`."""
        weights: Any = self.weights
        return weights.dropout(elastic_conv_bn(weights.conv, x, self.channels).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> logits [B, num_classes]."""
        classifier: Any = self.weights.classifier
        return F.linear(self.features(x), classifier.weight[:, : self.channels], classifier.bias)

    def extract(self, shape: tuple[int, ...]) -> Head:
        """Plain head with copies of the slices for an input of `shape` `(C, H, W)`."""
        classifier: Any = self.weights.classifier
        with classifier.weight.device:
            plain = Head(shape[0], self.channels, classifier.out_features)
        copy_centres(plain, self.weights)
        return plain.train(self.training)


class ElasticMBConv(nn.Module):
    """A candidate of a layer: an MBConv of `channels` outputs and a kernel size, sliced from the largest one.

    The width of the input sets the hidden width and that of the squeeze. The residual is added where the stride is 1 and
    the widths are equal, as in a plain MBConv. `drop_path`: probability that training omits the branch from this sum.

    Raises:
        InputError: more channels or a larger kernel than the weights have, or a kernel of even size.
    """

    def __init__(self, weights: Any, channels: int, kernel: int, expand: int, stride: int):
        super().__init__()
        self.weights = weights
        largest = weights.project.conv.out_channels, weights.depthwise.conv.kernel_size[0]
        if channels > largest[0] or kernel > largest[1] or kernel % 2 == 0:
            raise InputError(f"[elastic] expected at most {largest[0]} channels and an odd kernel up to {largest[1]}, "
                             f"got {channels} and {kernel}")  # fmt: skip
        self.channels, self.kernel, self.expand, self.stride = channels, kernel, expand, stride
        self.drop_path = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> [B, channels, H / stride, W / stride]."""
        weights: Any = self.weights
        inputs = x.shape[1]
        hidden = inputs * self.expand
        y = x if self.expand == 1 else elastic_conv_bn(weights.expand, x, hidden)
        y = elastic_conv_bn(weights.depthwise, y, hidden, self.kernel)
        y = elastic_squeeze_excitation(weights.se, y, max(1, inputs // 4))
        residual = self.stride == 1 and inputs == self.channels
        if residual and self.training and self.drop_path == 0:
            return elastic_conv_bn(weights.project, y, self.channels, residual=x)
        y = elastic_conv_bn(weights.project, y, self.channels)
        return x + drop_path(y, self.drop_path, self.training) if residual else y

    def extract(self, shape: tuple[int, ...]) -> MBConv:
        """Plain MBConv with copies of the slices for an input of `shape` `(C, H, W)`."""
        weights: Any = self.weights
        with weights.project.conv.weight.device:
            plain = MBConv(shape[0], self.channels, self.kernel, self.expand, self.stride)
        copy_centres(plain, weights)
        return plain.train(self.training)


@torch.no_grad()
def copy_centres(plain: nn.Module, shared: nn.Module) -> None:
    """Copy the leading slices and the centres of kernels of `shared` into parameters and buffers of `plain`."""
    theirs = shared.state_dict()
    for name, ours in plain.state_dict().items():
        source = theirs[name]
        if ours.ndim == 4:
            start = (source.shape[-1] - ours.shape[-1]) // 2
            source = source[..., start : start + ours.shape[-1], start : start + ours.shape[-1]]
        ours.copy_(source[tuple(slice(0, size) for size in ours.shape)])
