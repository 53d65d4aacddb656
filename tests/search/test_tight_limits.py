"""Searches by trial under limits that hardly any random architecture keeps: they start from the exact search's."""

import functools

import numpy as np
import pytest

from pynas import spaces
from pynas.costs import Costs, LayerCosts, LayerTable
from pynas.errors import InfeasibleError, InputError
from pynas.search import evolve, learn_action_space, random_search
from pynas.search.feasible import draw_within
from pynas.spaces import Space

SEARCHES = [
    pytest.param(functools.partial(evolve, population=6, tournament=3), id="evolution"),
    pytest.param(functools.partial(learn_action_space, initial=6, proposals=30), id="action space"),
    pytest.param(random_search, id="random"),
]
# 4^12 architectures; candidate k of every layer costs k.
LARGE = Space.from_counts("large", [[[4] * 4], [[4] * 4], [[4] * 4]])


def path_costs(space, seed=None):
    """Costs of a path: the sum of its candidates' numbers, or random."""
    rng = np.random.default_rng(seed)
    tables = [[np.indices(cell.counts).sum(0) if seed is None else rng.integers(1, 1000, cell.counts) for cell in cells]
              for cells in space.blocks]  # fmt: skip
    return Costs({"madds": tables}, {"madds": 0})


def rate(architecture):
    return float(hash(str([choice.path for choice in architecture])) % 1009)


@pytest.mark.parametrize("search", SEARCHES)
def test_all_architectures_within_a_tight_limit_are_found(search):
    # One in a million: all zeros, and one layer at 1.
    history = search(LARGE, lambda a: float(sum(map(sum, (c.path for c in a)))), 50, costs=path_costs(LARGE),
                     limits={"madds": 1})  # fmt: skip
    assert len(set(history.architectures)) == len(history) == 13 and history.exhausted


@pytest.mark.parametrize("search", SEARCHES)
def test_both_limits_hold_and_the_search_repeats(search):
    costs = path_costs(LARGE)
    first, second = (
        search(
            LARGE, lambda a: costs.of(a)["madds"], 30, costs=costs, limits={"madds": 2}, at_least={"madds": 1}, seed=4
        )
        for _ in range(2)
    )
    assert first.architectures == second.architectures and len(first) == 30
    assert {costs.of(architecture)["madds"] for architecture in first.architectures} == {1, 2}


@pytest.mark.parametrize("search", SEARCHES)
def test_boundary_states_are_kept(search):
    space = spaces.get("hytra-mini")
    costs = path_costs(space, seed=0)
    spent = sorted(costs.of(architecture)["madds"] for architecture in space.architectures())
    history = search(space, lambda a: 1.0, 10, costs=costs, limits={"madds": spent[3]})
    assert sorted(costs.of(architecture)["madds"] for architecture in history.architectures) == [
        cost for cost in spent if cost <= spent[3]
    ]
    assert history.exhausted


@pytest.mark.parametrize("search", SEARCHES)
def test_limits_that_cannot_be_kept_are_explained(search):
    with pytest.raises(InputError, match="limit on madds of 0 or more, .* got -1"):
        search(LARGE, rate, 5, costs=path_costs(LARGE), limits={"madds": -1})
    with pytest.raises(
        InfeasibleError, match=r"madds >= 37: the most that can be reached is 36.*cannot be kept: madds"
    ):
        search(LARGE, rate, 5, costs=path_costs(LARGE), at_least={"madds": 37})


def by_layer(space, fixed):
    layers = [np.stack([np.arange(n) for n in cell.counts]) for cell in space.blocks[0]]
    return LayerCosts({"madds": LayerTable(fixed, layers)})


@pytest.mark.parametrize("search", SEARCHES)
def test_costs_by_layer(search):
    space = Space.from_counts("deep", [[[3] * 14, [3] * 16]])
    costs = by_layer(space, [10, 11])
    history = search(space, lambda a: float(a[0].cell), 100, costs=costs, limits={"madds": 11})
    assert len(history) == 1 + 14 + 1 and history.exhausted
    with pytest.raises(InfeasibleError, match="madds <= 9: the least that can be reached is 10"):
        search(space, rate, 5, costs=costs, limits={"madds": 9})
    with pytest.raises(InfeasibleError, match="madds >= 44: the most that can be reached is 43"):
        search(space, rate, 5, costs=costs, at_least={"madds": 44})


def test_draws_differ_by_seed():
    costs = path_costs(LARGE)
    drawn = {
        draw_within(LARGE, costs, {"madds": 4}, {"madds": 4}, np.random.default_rng(seed), 1)[0] for seed in range(20)
    }
    assert len(drawn) > 15 and all(costs.of(architecture)["madds"] == 4 for architecture in drawn)


def test_no_limit_is_no_limit():
    costs = path_costs(LARGE)
    plain, none = (random_search(LARGE, rate, 20, **more) for more in ({}, {"costs": costs, "limits": {"madds": None}}))
    assert plain.architectures == none.architectures
