"""BossNAS style: widths by slices with a batch norm per width, and a hybrid of convolutions and attention over scales."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.families.family import Family, Path, family
from bench.families.single_path import Inverted, conv_norm
from pynas.rating import choice_layers, encoded


class SlimConv(nn.Module):
    """Convolution of the leading channels, then the batch norm of that width."""

    def __init__(self, inputs: int, widths: tuple[int, ...], kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, max(widths), kernel, stride, kernel // 2, bias=False)
        self.bn = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.widths = widths

    def forward(self, x: Tensor, width: int) -> Tensor:
        conv = self.conv
        y = F.conv2d(x, conv.weight[:width, : x.size(1)], None, conv.stride, conv.padding)
        return self.bn[self.widths.index(width)](y)


class SlimBlock(nn.Module):
    """Residual block of nats-size whose width is an argument; its input may have any width."""

    def __init__(self, inputs: int, widths: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.a, self.b = SlimConv(inputs, widths, 3, stride), SlimConv(max(widths), widths, 3)
        self.short, self.stride = SlimConv(inputs, widths, 1), stride

    def forward(self, x: Tensor, width: int) -> Tensor:
        y = self.b(F.relu(self.a(x, width), inplace=True), width)
        return F.relu(y + self.short(F.avg_pool2d(x, 2) if self.stride == 2 else x, width))


class Fix(nn.Module):
    """One convolution and norm per number of channels, then the mean over the positions."""

    def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.fix = nn.ModuleDict({str(width): nn.Sequential(*conv_norm(width, outputs, act=False)) for width in widths})

    def forward(self, x: Tensor) -> Tensor:
        return self.fix[str(x.size(1))](x).mean((2, 3))


class ResAttention(nn.Module):
    """Bottleneck with attention over all positions, positions of the rows and columns added to the keys."""

    def __init__(self, inputs: int, outputs: int, stride: int, side: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.reduce, self.pool = nn.Sequential(*conv_norm(inputs, middle)), nn.AvgPool2d(stride)
        self.qkv = nn.Conv2d(middle, 3 * middle, 1, bias=False)
        self.rows, self.columns = (nn.Parameter(0.2 * torch.randn(middle, side, 1)) for _ in "ab")
        self.expand = nn.Sequential(nn.BatchNorm2d(middle), nn.ReLU(), *conv_norm(middle, outputs, act=False))
        self.short = nn.Sequential(nn.AvgPool2d(stride), *conv_norm(inputs, outputs, act=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.pool(self.reduce(x))).chunk(3, 1)
        k = k + self.rows + self.columns.transpose(1, 2)
        q, k, flat = q.flatten(2), k.flatten(2), v.flatten(2)
        y = flat @ (q.transpose(1, 2) @ k * q.size(1) ** -0.5).softmax(-1).transpose(1, 2)
        return F.relu(self.expand(y.reshape(v.shape)) + self.short(x))


class ResConv(nn.Module):
    """Bottleneck with a grouped convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        body = [*conv_norm(inputs, middle), *conv_norm(middle, middle, 3, stride, middle // 4)]
        self.body = nn.Sequential(*body, *conv_norm(middle, outputs, act=False))
        self.short = nn.Sequential(nn.AvgPool2d(stride), *conv_norm(inputs, outputs, act=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


def mbconv(size: str) -> Family:
    """Layers of MBConv with ratios 6, 3 and kernels 3, 5: 16 or 256 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (24, 40, 4, 16, (8, 8)) if size == "bench" else (8, 12, 2, 6, (3, 2))
    kinds = list(itertools.product((6, 3), (3, 5)))
    module = nn.ModuleList(
        nn.ModuleList(Inverted(inputs if d == 0 else width, width, k, r, 1 + (d == 0)) for r, k in kinds)
        for d in range(depth)
    )
    return family("bossnas-mbconv", module, choice_layers(module), _one_of(module), (inputs, side, side), sizes)


def _one_of(module: nn.ModuleList):
    def run(path: Path, x: Tensor) -> Tensor:
        for layer, choice in zip(module, path):
            x = layer[choice](x)
        return x

    return run


def nats(size: str) -> Family:
    """Layers of elastic width, a norm per width, then a layer that fixes the width: 27 or 256 paths."""
    torch.manual_seed(0)
    widths, depth, side, sizes = ((16, 32, 48, 64), 4, 16, (8, 8)) if size == "bench" else ((4, 8, 12), 3, 8, (3, 2))
    blocks = nn.ModuleList(SlimBlock(3 if d == 0 else max(widths), widths, 1 + (d == 1)) for d in range(depth))
    fix = Fix(widths, max(widths))

    def run(path: Path, x: Tensor) -> Tensor:
        for block, choice in zip(blocks, path):
            x = block(x, widths[choice])
        return fix(x)

    whole = nn.ModuleList([blocks, fix])
    layers = [encoded(block, widths) for block in blocks]
    return family("bossnas-nats", whole, layers, run, (3, side, side), sizes, tail=fix)


def hytra(size: str) -> Family:
    """A trellis: a layer keeps its scale or halves it, attention at the smaller scales only: 35 or 259 allowed paths."""
    torch.manual_seed(0)
    width, depth, side, sizes = (32, 5, 16, (8, 8)) if size == "bench" else (16, 3, 8, (3, 2))
    scales = (width, 2 * width, 4 * width)
    # Kinds of one layer: (scale before, scale after, attention).
    kinds = [(a, b, att) for a, b in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2)) for att in (False, True) if b or not att]

    def make(before: int, after: int, attention: bool) -> nn.Module:
        sizes = (scales[before], scales[after], 1 + after - before)
        return ResAttention(*sizes, side=side >> after) if attention else ResConv(*sizes)

    starts = [kind for kind in kinds if kind[0] == 0]
    plan = [starts, *[kinds] * (depth - 1)]
    module = nn.ModuleList(nn.ModuleList(make(*kind) for kind in layer) for layer in plan)
    fix = Fix(scales, 2 * width)

    def allowed(path: Path) -> bool:
        chosen = [layer[choice] for layer, choice in zip(plan, path)]
        return all(first[1] == second[0] for first, second in itertools.pairwise(chosen))

    one_of = _one_of(module)
    run = lambda path, x: fix(one_of(path, x))  # noqa: E731
    whole, layers = nn.ModuleList([module, fix]), choice_layers(module)
    return family("bossnas-hytra", whole, layers, run, (width, side, side), sizes, allowed=allowed, tail=fix)
