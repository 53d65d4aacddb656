"""Modules in the style of once-for-all: kernels by their centre, widths by slices, a batch norm that is sliced as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthConv(nn.Module):
    """Depth-wise convolution of 7x7 whose smaller kernels are the centre of the larger one times a matrix."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, stride, groups=channels, bias=False)
        for large, small in ((7, 5), (5, 3)):
            matrix = torch.eye(small**2) + 0.1 * torch.randn(small**2, small**2)
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(matrix))
        self.active_kernel_size = 7

    def forward(self, x: Tensor) -> Tensor:
        channels, kernel = x.size(1), self.active_kernel_size
        weight = self.conv.weight[:channels]
        for large, small in ((7, 5), (5, 3)):
            if kernel <= small:
                middle = weight[:, :, 1:-1, 1:-1].reshape(channels, -1)
                weight = F.linear(middle, getattr(self, f"{large}to{small}_matrix")).view(channels, 1, small, small)
        return F.conv2d(x, weight.contiguous(), None, self.conv.stride, kernel // 2, 1, channels)


class PointConv(nn.Module):
    """Convolution of 1x1 with as many inputs as it gets, and `active_out_channel` outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.active_out_channel = outputs

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.conv.weight[: self.active_out_channel, : x.size(1)].contiguous())


class Norm(nn.Module):
    """Wrapped batch norm: itself at full width, `F.batch_norm` on slices of it below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        bn, width, factor = self.bn, x.size(1), 0.0
        if width == bn.num_features:
            return bn(x)
        if bn.training and bn.track_running_stats:
            bn.num_batches_tracked += 1
            factor = 1.0 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
        return F.batch_norm(
            x, bn.running_mean[:width], bn.running_var[:width], bn.weight[:width], bn.bias[:width],
            bn.training or not bn.track_running_stats, factor, bn.eps,
        )  # fmt: skip


class SE(nn.Module):
    """Squeeze and excite with slices of its two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        width, (reduce, expand) = x.size(1), self.fc
        y = x.mean(3, keepdim=True).mean(2, keepdim=True)
        y = F.relu(F.conv2d(y, reduce.weight[: width // 4, :width].contiguous(), reduce.bias[: width // 4]))
        return x * F.hardsigmoid(F.conv2d(y, expand.weight[:width, : width // 4].contiguous(), expand.bias[:width]))


class MBConv(nn.Module):
    """Elastic MBConv; a forward pass hands the active sizes down to its parts."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = 6 * inputs
        self.inverted = nn.Sequential(PointConv(inputs, middle), Norm(middle), nn.Hardswish(inplace=True))
        self.depth = nn.Sequential(DepthConv(middle, stride), Norm(middle), nn.Hardswish(inplace=True), SE(middle))
        self.point = nn.Sequential(PointConv(middle, outputs), Norm(outputs))
        self.active_kernel_size, self.active_expand_ratio = 7, 6

    def forward(self, x: Tensor) -> Tensor:
        self.inverted[0].active_out_channel = x.size(1) * self.active_expand_ratio
        self.depth[0].active_kernel_size = self.active_kernel_size
        return self.point(self.depth(self.inverted(x)))


class Residual(nn.Module):
    """An MBConv called `conv`, and its shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.shortcut = MBConv(inputs, outputs, stride), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x if self.shortcut else self.conv(x)


class Network(nn.Module):
    """Stages of up to `depth` blocks each; `set_active_subnet` says which part of it the next forward pass runs."""

    def __init__(self, widths: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        inputs = [(8, *widths)[s] if d == 0 else width for s, width in enumerate(widths) for d in range(depth)]
        outputs = [width for width in widths for _ in range(depth)]
        self.blocks = nn.ModuleList(Residual(*pair, 2 if b % depth == 0 and b else 1)
                                    for b, pair in enumerate(zip(inputs, outputs)))  # fmt: skip
        self.block_group_info = [list(range(s * depth, (s + 1) * depth)) for s in range(len(widths))]
        self.runtime_depth = [depth] * len(widths)
        self.classifier = nn.Linear(widths[-1], 10)

    def set_active_subnet(self, ks: list[int], e: list[int], d: list[int]) -> None:
        for block, kernel, ratio in zip(self.blocks, ks, e):
            block.conv.active_kernel_size, block.conv.active_expand_ratio = kernel, ratio
        self.runtime_depth = list(d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_conv(x)
        for group, depth in zip(self.block_group_info, self.runtime_depth):
            for index in group[:depth]:
                x = self.blocks[index](x)
        return self.classifier(x.mean((2, 3)))
