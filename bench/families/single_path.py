"""Single-Path-One-Shot, Few-Shot-NAS and DNA style: one module per candidate, and a code that says which to run."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bench.families.family import Family, Path, family
from pynas.rating import choice_layers, encoded


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
) -> list[nn.Module]:
    """Return a convolution, its norm and an activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if act else [])]


class Shuffle(nn.Module):
    """Choice block of ShuffleNet: half of the channels, interleaved, pass a branch; the others stay."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, repeats: int = 1) -> None:
        super().__init__()
        self.stride = stride
        half, left = inputs // 2 if stride == 1 else inputs, inputs // 2 if stride == 1 else inputs
        middle, width = outputs // 2, half
        branch: list[nn.Module] = []
        for i in range(repeats):
            first = stride if i == 0 else 1
            branch += conv_norm(width, width, kernel, first, width, act=False) if repeats > 1 else []
            branch += conv_norm(width, middle)
            branch += [] if repeats > 1 else conv_norm(middle, middle, kernel, first, middle, act=False)
            width = middle
        self.branch_main = nn.Sequential(*branch, *conv_norm(width, outputs - left))
        self.branch_proj = None
        if stride == 2:
            self.branch_proj = nn.Sequential(*conv_norm(left, left, kernel, 2, left, act=False), *conv_norm(left, left))

    def forward(self, old: Tensor) -> Tensor:
        if self.branch_proj is not None:
            return torch.cat((self.branch_proj(old), self.branch_main(old)), 1)
        batch, channels, height, width = old.shape
        parts = old.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
        keep, x = parts.reshape(2, batch, channels // 2, height, width)
        return torch.cat((keep, self.branch_main(x)), 1)


class OneShot(nn.Module):
    """Supernet whose forward pass takes the architecture: one choice per layer."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        kinds = ((3, 1), (5, 1), (7, 1), (3, 3))
        self.features = nn.ModuleList(
            nn.ModuleList(Shuffle(inputs if d == 0 else width, width, k, 2 if d == 0 else 1, n) for k, n in kinds)
            for d in range(depth)
        )

    def forward(self, x: Tensor, architecture: Path) -> Tensor:
        for archs, arch_id in zip(self.features, architecture):
            x = archs[arch_id](x)
        return x


class Inverted(nn.Module):
    """MBConv with squeeze and excite, as in DNA's operations."""

    def __init__(self, inputs: int, outputs: int, kernel: int, ratio: int, stride: int) -> None:
        super().__init__()
        middle = inputs * ratio
        self.pw = nn.Sequential(*conv_norm(inputs, middle, act=False), nn.SiLU(inplace=True))
        self.dw = nn.Sequential(*conv_norm(middle, middle, kernel, stride, middle, act=False), nn.SiLU(inplace=True))
        self.se = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(middle, inputs // 4, 1), nn.SiLU(inplace=True),
                                nn.Conv2d(inputs // 4, middle, 1), nn.Sigmoid())  # fmt: skip
        self.pwl = nn.Sequential(*conv_norm(middle, outputs, act=False))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.dw(self.pw(x))
        y = self.pwl(y * self.se(y))
        return y.add_(x) if self.residual else y


class Choice(nn.Module):
    """One layer of a stage: `forward(x, code)`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        kinds = itertools.product((6, 3), (3, 5, 7))
        self.ops = nn.ModuleList(Inverted(inputs, outputs, kernel, ratio, stride) for ratio, kernel in kinds)

    def forward(self, x: Tensor, code: int) -> Tensor:
        return self.ops[code](x)


class Stage(nn.Module):
    """Stage of a DNA supernet: `forward(x, code)` with one number per layer."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Choice(inputs if d == 0 else outputs, outputs, 1 + (d == 0)) for d in range(depth))

    def forward(self, x: Tensor, code: Path) -> Tensor:
        for layer, number in zip(self.layers, code):
            x = layer(x, number)
        return x


def one_shot(size: str) -> Family:
    """Shuffle blocks of 4 kinds: 64 or 256 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (32, 64, 4, 16, (8, 8)) if size == "bench" else (8, 16, 3, 6, (3, 2))
    net = OneShot(inputs, width, depth)
    return family("spos", net, choice_layers(net.features), lambda path, x: net(x, path), (inputs, side, side), sizes)


def few_shot(size: str) -> Family:
    """One sub-supernet: its second layer has a single choice, as a split supernet has: 16 or 256 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (32, 64, 5, 16, (8, 8)) if size == "bench" else (8, 16, 3, 6, (3, 2))
    net = OneShot(inputs, width, depth)
    net.features[1] = net.features[1][2:3]
    return family(
        "few-shot", net, choice_layers(net.features), lambda path, x: net(x, path), (inputs, side, side), sizes
    )


def dna_layers(size: str) -> Family:
    """Layers that take a code of their own: 36 or 216 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (24, 40, 3, 16, (8, 8)) if size == "bench" else (8, 12, 2, 6, (3, 2))
    stage = Stage(inputs, width, depth)
    layers = [encoded(layer, range(6)) for layer in stage.layers]
    return family("dna-layers", stage, layers, lambda path, x: stage(x, path), (inputs, side, side), sizes)


def dna_block(size: str) -> Family:
    """A small block of two layers: 36 paths."""
    torch.manual_seed(0)
    inputs, width, side, sizes = (24, 40, 14, (8, 8)) if size == "bench" else (8, 12, 6, (3, 2))
    stage = Stage(inputs, width, 2)
    layers = choice_layers(layer.ops for layer in stage.layers)
    return family("dna-block", stage, layers, lambda path, x: stage(x, path), (inputs, side, side), sizes)


def dna_codes(size: str) -> Family:
    """The small block where only the whole block takes a code, so that paths share nothing: 8 or 36 candidates."""
    made = dna_block(size)
    codes = list(itertools.product(range(6), range(6)))[:: 1 if size == "bench" else 5]
    return family("dna-codes", made.module, [encoded(made.module, codes)], lambda path, x: made.module(x, codes[path[0]]),
                  made.batches[0][0].shape[1:], [len(x) for x, _ in made.batches])  # fmt: skip
