"""Parameters that stand in several places count once per architecture: as in its exported network."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import costs, export
from pynas.costs import Costs, cost_range
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Architecture
from pynas.spaces.nasbench201 import nasbench201

SHAPE = (6,)


def linear():
    return nn.Linear(6, 6)  # 42 parameters


class Borrowing(nn.Module):
    """Multiplies by the weight of another module."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return x @ self.weight + self.bias


def nets():
    a, b, c = linear(), linear(), linear()
    no = nn.Identity
    yield "two layers", pynas.Supernet([[[[a, no()], [a, no()], [b, a]]]]), True
    yield "one module twice in a path, always", pynas.Supernet([[[[a], [a, no()]]]]), True
    yield "all candidates", pynas.Supernet([[[[a], [b, no()]]], [[[a, no()]]]]), True
    yield "stem and head", pynas.Supernet([[[[a, b, no()]]], [[[Borrowing(a.weight), a]]]], stem=a, head=a), True
    yield "one parameter of two modules", pynas.Supernet([[[[Borrowing(a.weight), no()], [a, b]]]]), True
    yield "cells", pynas.Supernet([[[[a, b]], [[a, no()], [a, b]]], [[[c]]]]), True
    yield "two blocks", pynas.Supernet([[[[a, no()]]], [[[a, b, no()], [no(), a]]], [[[c]]]]), False
    yield "two pairs", pynas.Supernet([[[[a, no()], [b, no()]]], [[[a, no()], [b, c]]], [[[b, no()]]]], head=c), False


@pytest.mark.parametrize("net, additive", [pytest.param(net, add, id=name) for name, net, add in nets()])
def test_every_architecture_costs_what_its_network_does(net, additive, tmp_path):
    table = costs.count(net, SHAPE)
    table.save(tmp_path / "costs.npz")
    read = Costs.load(tmp_path / "costs.npz")
    for architecture in net.space.architectures():
        whole, _ = costs.count_module(export.subnet(net, architecture, SHAPE), SHAPE)
        assert table.of(architecture) == whole == read.of(architecture)
    assert table.additive == read.additive == (("params", "madds", "memory") if additive else ("madds",))
    if additive:
        totals = [table.of(architecture)["params"] for architecture in net.space.architectures()]
        assert cost_range(net.space, table, "params") == (min(totals), max(totals))


def scores(net):
    rng = np.random.default_rng(0)
    return Scores(net.space, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in net.space.blocks])


def test_search_finds_what_shares_its_parameters():
    tied = nn.Linear(10, 10)
    net = pynas.Supernet([[[[tied, nn.Identity()], [tied, nn.Identity()]]]])
    rated = Scores(net.space, [[ScoreTable([[0.1, 0.2], [0.3, 0.4]])]])
    found = pynas.search.best(rated, costs.count(net, (10,)), {"params": 150})
    assert found[0].architecture == Architecture.parse("00") and found[0].costs["params"] == 110


def test_costs_that_do_not_add_up_are_not_searched():
    shared = linear()
    net = pynas.Supernet([[[[shared, nn.Identity()]]], [[[nn.Identity(), shared]]]])
    table, rated = costs.count(net, SHAPE), scores(net)
    reason = "the blocks 0, 1 share blocks.0.0.0.0.weight"
    assert table.metadata["not_additive"] == {"params": reason, "memory": reason}
    for call in (lambda: table["params"], lambda: pynas.search.best(rated, table, {"params": 50}),
                 lambda: pynas.search.front(rated, table, "params"), lambda: cost_range(net.space, table, "memory")):  # fmt: skip
        with pytest.raises(InputError, match=f"got '(params|memory)': {reason}; limit one of madds"):
            call()
    every = [Architecture.of([(0, (i,)), (0, (k,))]) for i, k in itertools.product(range(2), repeat=2)]
    found = pynas.search.best(rated, table, {"madds": 36}, top_k=4)
    assert {entry.architecture for entry in found} == {a for a in every if table.of(a)["madds"] <= 36}
    assert all(entry.costs == table.of(entry.architecture) for entry in found)
    front = pynas.search.front(rated, table, "madds")
    assert all(entry.costs == table.of(entry.architecture) for entry in front)
    latency = costs.latency(net, SHAPE, repeats=1, warm_up=0)
    assert (table | latency).of(every[1])["params"] == 42


def test_two_cells_of_a_graph_with_one_set_of_weights():
    net = pynas.supernet(nasbench201("own", n=2, channels=(4, 8, 8), ops=("none", "nor_conv_1x1"), image_size=8), 3)
    net.body[1] = net.body[0]
    table = costs.count(net, (3, 8, 8))
    for architecture in itertools.islice(net.space.architectures(), 0, None, 9):
        whole, _ = costs.count_module(export.subnet(net, architecture), (3, 8, 8))
        assert table.of(architecture) == whole
