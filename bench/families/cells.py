"""NAS-Bench-201 style: a cell that is a graph with a choice on each edge."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from bench.families.family import Family, Path, family
from pynas.rating import dag, encoded

NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class Zero(nn.Module):
    """Zeros of the output's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


def relu_conv(channels: int, kernel: int, tracks: bool) -> nn.Module:
    """Return ReLU, a convolution and a norm without weights."""
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(
        nn.ReLU(inplace=False), conv, nn.BatchNorm2d(channels, affine=False, track_running_stats=tracks)
    )


class BenchCell(nn.Module):
    """NAS-Bench-201's cell of 4 nodes; `forward_dynamic` runs one structure."""

    def __init__(self, channels: int, tracks: bool, names: tuple[str, ...] = NAMES) -> None:
        super().__init__()
        make = {
            "none": lambda: Zero(1), "skip_connect": nn.Identity,
            "avg_pool_3x3": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            "nor_conv_1x1": lambda: relu_conv(channels, 1, tracks), "nor_conv_3x3": lambda: relu_conv(channels, 3, tracks),
        }  # fmt: skip
        self.op_names = names
        pairs = [f"{i}<-{j}" for i in range(1, 4) for j in range(i)]
        self.edges = nn.ModuleDict({pair: nn.ModuleList(make[name]() for name in names) for pair in pairs})

    def forward_dynamic(self, x: Tensor, structure: list[list[tuple[str, int]]]) -> Tensor:
        nodes = [x]
        for i, node in enumerate(structure, 1):
            nodes.append(sum(self.edges[f"{i}<-{j}"][self.op_names.index(name)](nodes[j]) for name, j in node))
        return nodes[-1]


def structures(count: int, seed: int = 0) -> list[list[list[tuple[str, int]]]]:
    """Return different random structures of the cell."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        names = rng.choices(NAMES, k=6)
        found[tuple(names)] = [[(names[i * (i - 1) // 2 + j], j) for j in range(i)] for i in range(1, 4)]
    return list(found.values())


def _structures(name: str, size: str, tracks: bool) -> Family:
    torch.manual_seed(0)
    channels, side, count, sizes = (16, 16, 100, (8, 8)) if size == "bench" else (8, 6, 8, (3, 2))
    cell, codes = BenchCell(channels, tracks), structures(count)
    layers = [encoded(cell, codes, lambda cell, x, code: cell.forward_dynamic(x, code))]
    return family(
        name, cell, layers, lambda path, x: cell.forward_dynamic(x, codes[path[0]]), (channels, side, side), sizes
    )


def bench_cell(size: str) -> Family:
    """Structures of a cell, a candidate each: 8 or 100."""
    return _structures("nasbench201", size, tracks=True)


def bench_cell_untracked(size: str) -> Family:
    """Structures of a cell whose norms keep no statistics, as AutoDL-Projects trains them."""
    return _structures("nasbench201-untracked", size, tracks=False)


def bench_edges(size: str) -> Family:
    """Edges as layers, so that structures that begin alike share nodes: 64 or 729 paths."""
    torch.manual_seed(0)
    channels, side, sizes = (16, 16, (8, 8)) if size == "bench" else (8, 6, (3, 2))
    names = NAMES[1:4] if size == "bench" else NAMES[2:4]
    cell = BenchCell(channels, tracks=True, names=names)
    pairs = [(j, i) for i in range(1, 4) for j in range(i)]
    layers = dag({(j, i): list(cell.edges[f"{i}<-{j}"]) for j, i in pairs}, (channels, side, side))

    def run(path: Path, x: Tensor) -> Tensor:
        chosen = {pair: names[choice] for pair, choice in zip(pairs, path)}
        return cell.forward_dynamic(x, [[(chosen[j, i], j) for j in range(i)] for i in range(1, 4)])

    return family("nasbench201-edges", cell, layers, run, (channels, side, side), sizes)
