"""Costs by layer add up to what is counted on whole networks."""

from operator import itemgetter

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import Costs, LayerCosts, LayerTable, cost_range, count, count_module, latency, load
from pynas.errors import InputError
from pynas.spaces import Architecture, autoformer
from pynas.supernets.shapes import extracted


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (1, 3), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    return pynas.supernet(space, 5)


def test_sums_are_counts_of_whole_networks(net):
    costs, rng = count(net, (3, 8, 8)), np.random.default_rng(0)
    for _ in range(8):
        architecture = net.space.sample(rng)
        assert costs.of(architecture) == count_module(net.extract(architecture), (3, 8, 8))[0]


def test_many_paths_and_bounds(net):
    costs = count(net, (3, 8, 8))
    table = costs["params"]
    every = {cell: np.array(list(np.ndindex(*described.counts))) for cell, described in enumerate(net.space.blocks[0])}
    sums = {cell: table.paths(cell, paths) for cell, paths in every.items()}
    for cell, paths in every.items():
        assert sums[cell].tolist() == [table.of(Architecture.of([(cell, path)])) for path in paths]
    assert table.bounds() == cost_range(net.space, costs, "params")
    assert table.bounds() == (min(s.min() for s in sums.values()), max(s.max() for s in sums.values()))


def test_latency_is_a_table_too_and_files_come_back(net, tmp_path):
    costs = count(net, (3, 8, 8)) | latency(net, (3, 8, 8), repeats=2, warm_up=0)
    costs.save(tmp_path / "costs.npz")
    read = load(tmp_path / "costs.npz")
    assert isinstance(read, LayerCosts)
    assert read.names == ("params", "madds", "memory", "latency") and read.metadata == costs.metadata
    architecture = net.space.parse("3:031")
    assert read.of(architecture) == costs.of(architecture) and read.of(architecture)["latency"] > 0
    assert isinstance(read.of(architecture)["params"], int)
    with pytest.raises(InputError, match="expected one of params, madds, memory, latency, got 'watts'"):
        costs["watts"]


def test_a_table_by_hand():
    table = LayerTable([10, 20.5], [np.array([[1, 2], [3, 5]]), np.array([[0.25, 4]])])
    assert table.of(Architecture.parse("01")) == 16 and table.of(Architecture.parse("1:0")) == 20.75


def test_the_walk_of_layers_gives_dense_tables_too(net):
    costs = count(net, (3, 8, 8))
    walk = net.visit((3, 8, 8), lambda module, shape, _: count_module(extracted(module, shape), shape))
    assert walk.fixed(itemgetter("params")) == 0
    for name in costs.names:
        ((*tables,),) = walk.tables(itemgetter(name))
        for c, (table, cell) in enumerate(zip(tables, net.space.blocks[0])):
            assert table.shape == cell.counts
            for path in np.ndindex(*cell.counts):
                assert table[path] == costs[name].of(Architecture.of([(c, path)]))


def test_either_kind_of_file_is_read(tmp_path):
    Costs({"madds": [[np.arange(6)]]}, {"madds": 1}).save(tmp_path / "costs.npz")
    assert isinstance(load(tmp_path / "costs.npz"), Costs)
    for name in ("none.npz", "other.npz"):
        (tmp_path / "other.npz").write_bytes(b"other")
        with pytest.raises(InputError, match=name):
            load(tmp_path / name)
