"""Costs by layer add up to what is counted on whole networks."""

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import cost_range, count_module
from pynas.costs.layers import LayerCosts, LayerTable, count_layers, layer_latency
from pynas.errors import InputError
from pynas.spaces import Architecture, autoformer


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (1, 3), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    return pynas.supernet(space, 5)


def test_sums_are_counts_of_whole_networks(net):
    costs, rng = count_layers(net, (3, 8, 8)), np.random.default_rng(0)
    for _ in range(8):
        architecture = net.space.sample(rng)
        assert costs.of(architecture) == count_module(net.extract(architecture), (3, 8, 8))[0]


def test_many_paths_and_bounds(net):
    costs = count_layers(net, (3, 8, 8))
    table = costs["params"]
    every = {cell: np.array(list(np.ndindex(*described.counts))) for cell, described in enumerate(net.space.blocks[0])}
    sums = {cell: table.paths(cell, paths) for cell, paths in every.items()}
    for cell, paths in every.items():
        assert sums[cell].tolist() == [table.of(Architecture.of([(cell, path)])) for path in paths]
    assert table.bounds() == cost_range(net.space, costs, "params")
    assert table.bounds() == (min(s.min() for s in sums.values()), max(s.max() for s in sums.values()))


def test_latency_is_a_table_too_and_files_come_back(net, tmp_path):
    costs = count_layers(net, (3, 8, 8)) | layer_latency(net, (3, 8, 8), repeats=2, warm_up=0)
    costs.save(tmp_path / "costs.npz")
    read = LayerCosts.load(tmp_path / "costs.npz")
    assert read.names == ("params", "madds", "memory", "latency") and read.metadata == costs.metadata
    architecture = net.space.parse("3:031")
    assert read.of(architecture) == costs.of(architecture) and read.of(architecture)["latency"] > 0
    assert isinstance(read.of(architecture)["params"], int)
    with pytest.raises(InputError, match="expected one of params, madds, memory, latency, got 'watts'"):
        costs["watts"]


def test_a_table_by_hand():
    table = LayerTable([10, 20.5], [np.array([[1, 2], [3, 5]]), np.array([[0.25, 4]])])
    assert table.of(Architecture.parse("01")) == 16 and table.of(Architecture.parse("1:0")) == 20.75


def test_only_spaces_of_one_block():
    with pytest.raises(InputError, match="one block for costs by layer, got 4"):
        count_layers(pynas.supernet("mbconv-mini", 2), (3, 32, 32))
