"""best over score tables: the pools, weights and joins, against brute force over architectures."""

import itertools
import math

import numpy as np
import pytest

import pynas
from pynas.costs import cost_range, count
from pynas.costs.table import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import best, front
from pynas.spaces.architecture import Architecture

pytestmark = pytest.mark.usefixtures("kernels")

SHAPES = [[(2, 3), (3,)], [(2, 2)], [(4,), (2, 2), (1, 3)]]


def tables_and_costs(seed=0):
    rng = np.random.default_rng(seed)
    tables = [[ScoreTable(rng.uniform(0.1, 2, shape)) for shape in cells] for cells in SHAPES]
    tables[0][0].scores[1, 2] = np.nan
    tables[2][1].scores[:] = np.nan
    costs = {
        "madds": [[rng.integers(1, 100, shape) for shape in cells] for cells in SHAPES],
        "latency": [[rng.uniform(0.1, 3, shape) for shape in cells] for cells in SHAPES],
    }
    return Scores.product(tables), Costs(costs, {"madds": 1000, "latency": 0.7})


def every_architecture(tables, score):
    pools = [
        [
            (cell, path)
            for cell, table in enumerate(cells)
            for path in np.ndindex(*table.shape)
            if not np.isnan(table[path])
        ]
        for cells in tables
    ]
    for choices in itertools.product(*pools):
        architecture = Architecture.of(choices)
        yield score([tables[b][c.cell][c.path] for b, c in enumerate(architecture)]), architecture


@pytest.mark.parametrize("top_k", [1, 10, 10_000])
@pytest.mark.parametrize("limits", [{}, {"madds": 1135}, {"madds": 1150, "latency": 4.5}])
@pytest.mark.parametrize("weights", [None, (1.0, 0.25, 3.0)])
@pytest.mark.parametrize("join", ["sum", "product"])
def test_equals_brute_force(top_k, limits, weights, join):
    tables, costs = tables_and_costs()
    weight = weights or (1.0, 1.0, 1.0)

    def score(scores):
        if join == "sum":
            return math.fsum(w * s for w, s in zip(weight, scores))
        return math.prod(s**w for w, s in zip(weight, scores))

    expected = [
        (value, architecture)
        for value, architecture in every_architecture(tables, score)
        if all(costs.of(architecture)[name] <= limit for name, limit in limits.items())
    ]
    expected.sort(key=lambda row: row[0])
    found = best(tables, costs, limits, top_k, weights=weights, join=join)
    assert [entry.architecture for entry in found] == [architecture for _, architecture in expected[:top_k]]
    np.testing.assert_allclose([entry.score for entry in found], [row[0] for row in expected[:top_k]], rtol=1e-13)
    for entry in found:
        assert entry.costs == pytest.approx(costs.of(entry.architecture), rel=1e-14)
        assert isinstance(entry.costs["madds"], int)
    assert found.exhausted == (len(expected) < top_k)
    assert found.certificate.space_size == 8 * 4 * 7


def test_lower_limits():
    tables, costs = tables_and_costs()
    found = best(tables, costs, {"madds": 1160}, 5, at_least={"madds": 1140})
    everything = [row for row in every_architecture(tables, math.fsum) if 1140 <= costs.of(row[1])["madds"] <= 1160]
    assert [entry.architecture for entry in found] == [row[1] for row in sorted(everything, key=lambda r: r[0])[:5]]


def test_a_limit_that_was_found_is_kept():
    tables, costs = tables_and_costs()
    first = best(tables, costs, {"latency": 4.0})[0]
    assert best(tables, costs, {"latency": first.costs["latency"]})[0] == first


def test_infeasible_counts_the_fixed_part():
    tables, costs = tables_and_costs()
    least = 1000 + sum(
        min(costs["madds"][b][c][i] for c, t in enumerate(cells) for i in np.ndindex(*t.shape) if not np.isnan(t[i]))
        for b, cells in enumerate(tables)
    )
    with pytest.raises(InfeasibleError, match=f"madds <= 1001: the least that can be reached is {least}"):
        best(tables, costs, {"madds": 1001})


def test_bad_input():
    tables, costs = tables_and_costs()
    with pytest.raises(InputError, match="limits on madds, latency, got one on 'params'"):
        best(tables, costs, {"params": 3})
    with pytest.raises(InputError, match="join to be one of sum, product, got 'max'"):
        best(tables, costs, join="max")
    with pytest.raises(InputError, match="3 weights of 0 or more"):
        best(tables, costs, weights=[1, 2])
    with pytest.raises(InputError, match="cost 'madds' with the score tables' shapes"):
        best(Scores.product(tables.tables[:2]), costs)
    tables[1][0].scores[:] = np.nan
    with pytest.raises(InputError, match="rated paths in every block, got none in block 1"):
        best(tables, costs)
    tables[1][0].scores[:] = np.inf
    with pytest.raises(InputError, match="finite losses, got inf in block 1"):
        best(tables, costs)
    tables[1][0].scores[:] = -1
    with pytest.raises(InputError, match="scores above 0 to join by product, got -1"):
        best(tables, costs, join="product")
    with pytest.raises(InputError, match="at least one block"):
        Scores.product([])


@pytest.mark.parametrize("name", ["mbconv-mini", "hytra-mini"])
def test_tables_take_their_space_from_the_costs(name):
    """Boundary states too: hytra's blocks cannot be combined at will."""
    net = pynas.supernet(name, 4)
    costs = count(net, (3, 32, 32))
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in net.space.blocks]
    limits = {"madds": sum(cost_range(net.space, costs, "madds")) / 2}
    expected = best(Scores(net.space, tables), costs, limits, 3)
    assert best(tables, costs, limits, 3).entries == expected.entries
    assert front(tables, costs, "params").entries == front(Scores(net.space, tables), costs, "params").entries


@pytest.mark.parametrize("search", [best, lambda tables, costs: front(tables, costs, "madds")])
def test_tables_without_their_space_are_refused(search):
    scores, costs = tables_and_costs()
    with pytest.raises(InputError, match=r"expected Scores, got list; write Scores\(space, tables\) .*Scores.product"):
        search(scores.tables, costs)
