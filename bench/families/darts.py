"""DARTS style: cells of two inputs in networks that a genotype describes; PC-DARTS with partial channels."""

from __future__ import annotations

import random
from collections import namedtuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.families.cells import Zero
from bench.families.family import Family, family
from pynas.rating import encoded

PRIMITIVES = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")


class Partial(nn.Module):
    """Mixed operation of PC-DARTS: a candidate sees a part of the channels, the rest is pooled where it has to be."""

    def __init__(self, channels: int, stride: int, parts: int) -> None:
        super().__init__()
        width, self.parts, self.stride = channels // parts, parts, stride
        norm = lambda: nn.BatchNorm2d(width, affine=False)  # noqa: E731
        conv = lambda kernel, **rest: nn.Conv2d(width, width, kernel, bias=False, **rest)  # noqa: E731
        self._ops = nn.ModuleDict({
            "none": Zero(stride),
            "max_pool_3x3": nn.Sequential(nn.MaxPool2d(3, stride, 1), norm()),
            "avg_pool_3x3": nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm()),
            "skip_connect": nn.Identity() if stride == 1 else nn.Sequential(nn.ReLU(), conv(1, stride=2), norm()),
            "sep_conv_3x3": nn.Sequential(nn.ReLU(), conv(3, stride=stride, padding=1, groups=width), conv(1), norm(),
                                          nn.ReLU(), conv(3, padding=1, groups=width), conv(1), norm()),
            "dil_conv_5x5": nn.Sequential(nn.ReLU(), conv(5, stride=stride, padding=4, dilation=2, groups=width), conv(1), norm()),
        })  # fmt: skip

    def forward(self, x: Tensor, name: str) -> Tensor:
        if self.parts == 1:
            return self._ops[name](x)
        width = x.size(1) // self.parts
        y, rest = self._ops[name](x[:, :width]), x[:, width:]
        y = torch.cat([y, rest if self.stride == 1 else F.max_pool2d(rest, 2)], 1)
        return y.unflatten(1, (self.parts, width)).transpose(1, 2).flatten(1, 2)


class Cell(nn.Module):
    """DARTS's cell with two inputs and `steps` nodes of two edges each."""

    def __init__(
        self, before: int, last: int, channels: int, reduction: bool, reduced: bool, parts: int, steps: int = 3
    ) -> None:
        super().__init__()

        def prepare(inputs: int, stride: int) -> nn.Module:
            conv = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=False))

        self.preprocess0, self.preprocess1 = prepare(before, 1 + reduced), prepare(last, 1)
        self._ops = nn.ModuleDict({f"{i}<-{j}": Partial(channels, 1 + (reduction and j < 2), parts)
                                   for i in range(steps) for j in range(2 + i)})  # fmt: skip
        self.reduction = reduction

    def forward(self, s0: Tensor, s1: Tensor, genotype: Genotype) -> Tensor:
        gene = genotype.reduce if self.reduction else genotype.normal
        concat = genotype.reduce_concat if self.reduction else genotype.normal_concat
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for i in range(len(gene) // 2):
            states.append(sum(self._ops[f"{i}<-{j}"](states[j], name) for name, j in gene[2 * i : 2 * i + 2]))
        return torch.cat([states[node] for node in concat], 1)


class CellNetwork(nn.Module):
    """Network of normal and reduction cells: `forward(x, genotype)` gives the logits and an auxiliary None, as DARTS does."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        wide = 6 * channels
        self.cells = nn.ModuleList([
            Cell(channels, channels, channels, False, False, parts), Cell(channels, 3 * channels, 2 * channels, True, False, parts),
            Cell(3 * channels, wide, 2 * channels, False, True, parts),
        ])  # fmt: skip
        self.classifier = nn.Linear(wide, 10)

    def forward(self, x: Tensor, genotype: Genotype) -> tuple[Tensor, None]:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, genotype)
        return self.classifier(s1.mean((2, 3))), None


def genotypes(count: int, seed: int = 0, steps: int = 3) -> list[Genotype]:
    """Return random genotypes."""
    rng, concat = random.Random(seed), range(2, 2 + steps)
    gene = lambda: [(rng.choice(PRIMITIVES), j) for i in range(steps) for j in rng.sample(range(2 + i), 2)]  # noqa: E731
    return [Genotype(gene(), concat, gene(), concat) for _ in range(count)]


def _genotypes(name: str, size: str, parts: int) -> Family:
    torch.manual_seed(0)
    channels, side, count, sizes = (16, 16, 24, (8, 8)) if size == "bench" else (4 * parts, 6, 3, (3, 2))
    net, codes = CellNetwork(channels, parts), genotypes(count)
    layers = [encoded(net, codes, pick=0)]
    run = lambda path, x: net(x, codes[path[0]])[0]  # noqa: E731
    return family(name, net, layers, run, (3, side, side), sizes, loss="cross_entropy")


def networks(size: str) -> Family:
    """Networks of sampled genotypes in the space of DARTS and NAS-Bench-301: 3 or 24."""
    return _genotypes("nasbench301", size, 1)


def partial_networks(size: str) -> Family:
    """The same with partial channels: 3 or 24 networks."""
    return _genotypes("pc-darts", size, 4)
