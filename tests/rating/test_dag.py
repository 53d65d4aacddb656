"""Cells that are graphs, rated edge by edge, against a naive loop over the nodes of each structure alone."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.rating import dag, pack, rate
from pynas.spaces import Architecture


class Zero(nn.Module):
    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def relu_conv(channels, kernel, stride=1, inputs=None, in_place=False):
    conv = nn.Conv2d(inputs or channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(inplace=in_place), conv, nn.BatchNorm2d(channels))


def operations(channels, stride=1):
    """Four operations of a DARTS edge; the convolution's activation writes to its input."""
    skip = nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    pool = nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(channels, affine=False))
    return [Zero(stride), skip, relu_conv(channels, 3, stride, in_place=True), pool]


def randomised(edges, seed=0):
    torch.manual_seed(seed)
    for module in itertools.chain.from_iterable(edges.values()):
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, 0, 0.3)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
                if part.affine:
                    nn.init.uniform_(part.weight, 0.5, 1.5)
                    nn.init.normal_(part.bias, 0, 0.3)
    return edges


def bench201(channels=8):
    def ops():
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        return [Zero(), nn.Identity(), relu_conv(channels, 1), relu_conv(channels, 3), pool]

    return randomised({(source, target): ops() for target in range(1, 4) for source in range(target)})


def darts(channels=8, inputs=(12, 8), stride=2, before=1):
    """A cell with preprocessing, two inputs and three intermediate nodes; before: stride of the first preprocessing."""
    first = FactorizedReduce(inputs[0], channels) if before == 2 else relu_conv(channels, 1, inputs=inputs[0])
    edges = {(-2, 0): [first], (-1, 1): [relu_conv(channels, 1, inputs=inputs[1])]}
    for target in range(2, 5):
        edges |= {(source, target): operations(channels, stride if source < 2 else 1) for source in range(target)}
    return randomised(edges)


def run_naively(edges, path, nodes, output):
    """One structure's output; every operation gets its own copy of the node that it reads."""
    nodes, left = dict(nodes), dict(zip(edges, path))
    for edge in sorted(edges, key=lambda edge: (edge[1] if edge[1] > 1 else edge[1] - 9, edge[0])):
        source, target = edge
        y = edges[edge][left[edge]](nodes[source].clone())
        nodes[target] = nodes[target] + y if target in nodes else y
    return torch.cat([nodes[node] for node in output], 1)


def alone(edges, paths, batches, output, norm, calibration=()):
    """Mean squared error of each structure alone; batches of ({node: input}, target)."""
    scores = []
    for path in paths:
        own = {edge: copy.deepcopy(candidates) for edge, candidates in edges.items()}
        norms = [
            part for c in own.values() for m in c for part in m.eval().modules() if isinstance(part, nn.BatchNorm2d)
        ]
        if norm == "recalibrate":
            for part in norms:
                part.reset_running_stats()
                part.momentum = None
                part.train()
            for nodes in calibration:
                run_naively(own, path, nodes, output)
        for part in norms:
            part.train(norm == "batch")
        losses = [F.mse_loss(run_naively(own, path, nodes, output), target) for nodes, target in batches]
        scores.append(torch.stack(losses).mean().item())
    return scores


def drawn(edges, count, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.integers(len(ops))) for ops in edges.values()) for _ in range(count)]


@pytest.mark.parametrize("norm", ["running", "batch", "recalibrate"])
@torch.no_grad()
def test_structures_of_nasbench201_equal_each_alone(norm):
    edges = bench201()
    paths = sorted({*drawn(edges, 30), (0,) * 6, (2, 0, 0, 0, 0, 3)})
    pairs = [(torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6)) for _ in range(2)]
    calibration = [torch.randn(4, 8, 6, 6) for _ in range(2)]
    table = rate(dag(edges, (8, 6, 6)), pairs, "mse", norm, calibration=calibration, paths=paths, channels_last=False)
    expected = alone(edges, paths, [({0: x}, y) for x, y in pairs], [3], norm, [{0: x} for x in calibration])
    np.testing.assert_allclose(table.at(paths), expected, rtol=2e-5)
    assert len({round(score, 6) for score in expected}) > 20


@pytest.mark.parametrize(("stride", "before"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("norm", ["running", "batch", "recalibrate"])
@torch.no_grad()
def test_structures_of_darts_cells_equal_each_alone(norm, stride, before):
    edges, output = darts(stride=stride, before=before), (2, 3, 4)
    paths = drawn(edges, 10)
    first = (12, 8 * before, 8 * before)

    def inputs():
        return torch.randn(4, *first), torch.randn(4, 8, 8, 8)

    torch.manual_seed(1)
    pairs = [(inputs(), torch.randn(4, 24, 8 // stride, 8 // stride)) for _ in range(2)]
    calibration = [inputs() for _ in range(2)]
    layers = dag(edges, [first, (8, 8, 8)], output=output)
    assert [len(layer) for layer in layers] == [1, 1, *[4] * 9]
    packed = [(pack(*nodes), target) for nodes, target in pairs]
    table = rate(layers, packed, "mse", norm, calibration=[pack(*nodes) for nodes in calibration], paths=paths)
    named = [(dict(zip((-2, -1), nodes)), target) for nodes, target in pairs]
    expected = alone(edges, paths, named, output, norm, [dict(zip((-2, -1), nodes)) for nodes in calibration])
    np.testing.assert_allclose(table.at(paths), expected, rtol=5e-5)
    assert len({round(score, 6) for score in expected}) >= 8


@torch.no_grad()
def test_cells_follow_each_other_as_layers_do():
    """A reduction cell passes on its input -1 and its joined nodes, packed as the next cell's two inputs."""
    first, second = darts(stride=2), darts(inputs=(8, 24), stride=1, before=2)
    for candidates in second.values():
        for module in candidates:
            module.add_module("marked", nn.Identity())  # the cells differ in their weights' draw alone
    layers = [
        *dag(first, [(12, 8, 8), (8, 8, 8)], output=(-1, 2, 3, 4)),
        *dag(second, [(8, 8, 8), (24, 4, 4)], output=(2, 3, 4)),
    ]
    genotype = drawn(first, 1)[0]
    s0, s1 = torch.randn(4, 12, 8, 8), torch.randn(4, 8, 8, 8)
    target = torch.randn(4, 24, 4, 4)
    table = rate(layers, [(pack(s0, s1), target)], "mse", "running", paths=[genotype * 2])
    between = run_naively(_evaluating(first), genotype, {-2: s0, -1: s1}, (2, 3, 4))
    after = run_naively(_evaluating(second), genotype, {-2: s1, -1: between}, (2, 3, 4))
    assert table[genotype * 2] == pytest.approx(F.mse_loss(after, target).item(), rel=1e-5)


def _evaluating(edges):
    return {edge: [copy.deepcopy(each).eval() for each in candidates] for edge, candidates in edges.items()}


@torch.no_grad()
def test_nodes_that_are_no_images_join_as_the_user_says():
    torch.manual_seed(0)
    edges = {
        (7, 2): [nn.Linear(4, 3), nn.Linear(4, 3)],
        (2, 9): [nn.Tanh()],
        (7, 9): [nn.Linear(4, 3), nn.Linear(4, 3)],
    }
    x = torch.randn(5, 4)
    for join in (torch.maximum, lambda a, b: torch.cat([a, b], 1)):
        layers, join_naively = dag(edges, (4,), join=join), join
        with torch.no_grad():
            outputs = {
                (a, 0, b): join_naively(edges[7, 2][a](x).tanh(), edges[7, 9][b](x)) for a in range(2) for b in range(2)
            }
        target = torch.randn_like(outputs[0, 0, 0])
        table = rate(layers, [(x, target)], "mse")
        for path, y in outputs.items():
            assert table[path] == pytest.approx(F.mse_loss(y, target).item(), rel=1e-5)


def test_an_edge_waits_for_the_edges_into_its_source():
    torch.manual_seed(0)
    edges = {(1, 2): [nn.Linear(3, 2)], (0, 2): [nn.Linear(3, 2), nn.Linear(3, 2)], (0, 1): [nn.Linear(3, 3)]}
    layers = dag(edges, (3,))
    assert [len(layer) for layer in layers] == [2, 1, 1]
    assert [layer[0].operation for layer in layers] == [edges[0, 2][0], edges[0, 1][0], edges[1, 2][0]]


def test_one_structure_costs_its_operations_once():
    edges = bench201(4)
    net = pynas.Supernet([[dag(edges, (4, 6, 6))]])
    costs = pynas.costs.count(net, (4, 6, 6))
    x = torch.randn(2, 4, 6, 6)
    for path in ((3, 3, 2, 1, 0, 4), (2,) * 6, (0,) * 6):
        chosen = Architecture.of([(0, path)])
        each = [count_module(edges[edge][choice], (4, 6, 6))[0] for edge, choice in zip(edges, path)]
        assert costs.of(chosen)["params"] == sum(one["params"] for one in each)
        assert costs.of(chosen)["madds"] == sum(one["madds"] for one in each)
        plain = net.extract(chosen, (4, 6, 6))
        assert sum(p.numel() for p in plain.parameters()) == costs.of(chosen)["params"]
        with torch.no_grad():
            expected = run_naively(_evaluating(edges), path, {0: x}, [3])
            torch.testing.assert_close(plain.eval()(x), expected)


class Sliced(nn.Module):
    """The first outputs of a shared linear layer."""

    def __init__(self, shared, count):
        super().__init__()
        self.shared, self.count = shared, count

    def forward(self, x):
        return F.pad(F.linear(x, self.shared.weight[: self.count]), (0, 4 - self.count))

    def extract(self, shape):
        plain = nn.Linear(shape[0], self.count, bias=False)
        plain.weight.data.copy_(self.shared.weight[: self.count])
        return nn.Sequential(plain, nn.ConstantPad1d((0, 4 - self.count), 0.0))


def test_operations_that_share_weights_are_extracted():
    shared = nn.Linear(4, 4, bias=False)
    edges = {(0, 1): [Sliced(shared, 2), Sliced(shared, 4)], (0, 2): [nn.Identity()], (1, 2): [nn.Tanh()]}
    net = pynas.Supernet([[dag(edges, (4,))]])
    assert pynas.costs.count(net, (4,))["params"][0][0].reshape(-1).tolist() == [8, 16]
    plain, x = net.extract(Architecture.of([(0, (0, 0, 0))]), (4,)), torch.randn(3, 4)
    assert sum(p.numel() for p in plain.parameters()) == 8
    with torch.no_grad():
        torch.testing.assert_close(plain(x), x + edges[0, 1][0](x).tanh())


LINEAR = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ({(0, 1): [LINEAR], (1, 2): [LINEAR], (2, 1): [LINEAR]}, {}, r"without cycles, got one among the edges \[\(1, 2"),
        ({(1, 1): [LINEAR]}, {}, "without cycles"),
        ({(0, 1): [LINEAR], (2, 1): [LINEAR]}, {}, r"a shape for each of the nodes \[0, 2\], which no edge leads into, got 1"),
        ({(0, 1): [LINEAR], (0, 2): [LINEAR]}, {}, r"expected output= .* got \[1, 2\] and no output"),
        ({(0, 1): [LINEAR], (0, 2): [LINEAR]}, {"output": 1}, r"lead to the output \[1\], got node 2, which no edge leaves"),
        ({(0, 1): [LINEAR]}, {"output": 5}, r"different nodes of \[0, 1\] as output, got 5"),
        ({(0, 1): [LINEAR, nn.Linear(3, 2)]}, {}, r"the edge \(0, 1\) to put out one shape, got \[3\] of candidate 0 and \[2\] of "
                                                  "candidate 1"),
        ({(0, 1): [LINEAR], (0, 2): [nn.Linear(3, 2)], (1, 2): [LINEAR]}, {}, r"edge \(1, 2\) to fit the other edges into node 2, "
                                                                              r"\[2\], got \[3\]"),
        ({(0, 1): [LINEAR, nn.Linear(4, 3)]}, {}, r"runs on inputs of the shape \[3\].*\(candidate 1 of the edge \(0, 1\)\)"),
        ({(0, 1): [nn.LSTM(3, 3)]}, {}, r"candidate 0 of the edge \(0, 1\) to put out a tensor \[B, C, ...\], got tuple"),
        ({(0, 1): []}, {}, r"at least one module on the edge \(0, 1\)"),
        ({(0, 1): LINEAR}, {}, r"at least one module on the edge \(0, 1\)"),
        ({"01": [LINEAR]}, {}, "edges .source, target. of two whole numbers, got '01'"),
        ({}, {}, "a mapping from edges"),
    ],
)  # fmt: skip
def test_bad_graphs(edges, options, message):
    with pytest.raises(InputError, match=message):
        dag(edges, (3,), **options)
