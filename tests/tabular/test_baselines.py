"""Costs of the tabular benchmarks against networks that are built and counted."""

import numpy as np
import pytest
import torch
from torch import nn

from pynas.costs import count_module
from pynas.errors import InputError
from pynas.tabular import Benchmark, baselines, costs, load


class ConvNorm(nn.Sequential):
    def __init__(self, width_in, width_out, kernel, stride=1):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
        )


def operation(name, width_in, width_out):
    if name == "skip_connect":
        return nn.Identity() if width_in == width_out else ConvNorm(width_in, width_out, 1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1)
    return ConvNorm(width_in, width_out, int(name[-1])) if name != "none" else None


class InferredCell(nn.Module):
    """Operations on the edges 0>1, 0>2, 1>2, 0>3, 1>3, 2>3."""

    def __init__(self, ops, width_in, width_out):
        super().__init__()
        self.sources = (0, 0, 1, 0, 1, 2)
        edges = [operation(op, width_in if source == 0 else width_out, width_out)
                 for op, source in zip(ops, self.sources)]  # fmt: skip
        self.edges = nn.ModuleList(nn.Identity() if edge is None else edge for edge in edges)
        self.gain = [float(edge is not None) for edge in edges]
        self.width = width_out

    def forward(self, x):
        nodes = [x]
        for first, last in ((0, 1), (1, 3), (3, 6)):
            inputs = [self.edges[e](nodes[self.sources[e]]) for e in range(first, last) if self.gain[e]]
            nodes.append(sum(inputs) if inputs else x.new_zeros(len(x), self.width, *x.shape[2:]))
        return nodes[3]


class Halving(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.body = nn.Sequential(ConvNorm(width_in, width_out, 3, 2), ConvNorm(width_out, width_out, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(width_in, width_out, 1, bias=False))

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def network(stem, layers, last, classes):
    first = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem))
    head = nn.Sequential(nn.BatchNorm2d(last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))
    return nn.Sequential(first, *layers, head)


def size_network(name):
    widths = [int(width) for width in name.split(":")]
    ops = ["nor_conv_3x3"] * 3 + ["skip_connect"] + ["nor_conv_3x3"] * 2
    layers = [Halving(a, b) if index % 2 else InferredCell(ops, a, b)
              for index, (a, b) in enumerate(zip([widths[0], *widths], widths))]  # fmt: skip
    return network(widths[0], layers, widths[-1], 10)


def cell_network(ops, classes):
    layers = []
    for width in (16, 32, 64):
        layers += [Halving(width // 2, width)] if width > 16 else []
        layers += [InferredCell(ops, width, width) for _ in range(5)]
    return network(16, layers, 64, classes)


def check(row, net, side):
    with torch.device("meta"):
        counted, _ = count_module(net(), (3, side, side))
        convolutions = sum(module.weight.numel() for module in net().modules() if isinstance(module, nn.Conv2d))
    assert (row["conv_params"], row["params"], row["madds"]) == (convolutions, counted["params"], counted["madds"])


def rows_of(bench: Benchmark, count: int):
    table = costs(bench)
    for row in np.random.default_rng(0).choice(len(bench), count, replace=False):
        yield int(row), {name: int(values[row]) for name, values in table.items()}


def test_nats_size_costs_are_those_of_its_networks():
    bench = load("nats-size")
    for row, found in rows_of(bench, 6):
        check(found, lambda row=row: size_network(bench.architectures[row]), 32)


@pytest.mark.parametrize(("data", "side", "classes"), [("cifar10", 32, 10), ("imagenet16-120", 16, 120)])
def test_nasbench201_costs_are_those_of_its_networks(data, side, classes):
    bench = load("nasbench201", data)
    for row, found in rows_of(bench, 3):
        ops = [bench.ops[code] for code in bench.choices[row]]
        check(found, lambda ops=ops: cell_network(ops, classes), side)


def test_published_costs():
    """NATS-Bench's own figures: 0.067378 M and 7.991706 M for size 12, which count the classifier's bias as MAdds."""
    size = costs(load("nats-size"))
    assert (size["params"][12], size["madds"][12] + 10) == (67_378, 7_991_706)


def test_mbconv_costs_leave_the_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = costs(load("mbconv-23"))
    assert (torch.get_rng_state() == before).all()
    # All-MB3-k3 blocks are the smallest, all-MB6-k5 the largest: between these lie the 23.
    assert 3e6 < found["params"].min() < found["params"].max() < 7e6
    assert np.argmax(found["madds"]) == 0  # 11|1111|1101|1011|1101: nearly everything MB6 k5


def test_baselines_are_repeatable_and_named():
    bench = load("nats-size")
    assert list(baselines(bench)) == ["conv_params", "madds", "log_width", "random"]
    assert (baselines(bench, 1)["random"] == baselines(bench, 1)["random"]).all()
    assert (baselines(bench, 1)["random"] != baselines(bench, 2)["random"]).any()
    assert list(baselines(load("mbconv-23"))) == ["params", "madds", "log_width", "random"]
    row = bench.index("64:40:48:64:56")
    expected = sum(np.log([64, 40, 48, 64, 56]))
    assert baselines(bench)["log_width"][row] == pytest.approx(expected, rel=1e-14)


def test_a_benchmark_of_ones_own():
    bench = Benchmark("mine", "cifar10", ("a",), np.zeros((1, 1), np.uint8), ("x",), np.zeros(1), "me", "none")
    with pytest.raises(
        InputError, match=r"\[baselines\] expected one of nats-size, mbconv-23, nasbench201, got 'mine'"
    ):
        baselines(bench)
