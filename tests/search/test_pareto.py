"""Whole fronts against brute force."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pynas.errors import InfeasibleError, InputError
from pynas.search import VerificationError, front, pareto

from .brute_force import brute_force
from .test_best import every_architecture, tables_and_costs
from .test_traverse import instances


def brute_front(losses, costs, linked=None):
    """Indices of the undominated choices, by costs and loss; of equal ones the first."""
    rows = brute_force(losses, costs, [None] * costs[0].shape[1], 10**9, linked=linked)
    rows.sort(key=lambda row: row[0])  # by indices
    values = [(loss, *total) for _, loss, total in rows]
    kept = []
    for i, mine in enumerate(values):
        beaten = any(
            all(a <= b for a, b in zip(other, mine)) and (other != mine or j < i) for j, other in enumerate(values)
        )
        if not beaten:
            kept.append((mine[1:] + mine[:1], rows[i][0]))
    return [indices for _, indices in sorted(kept, key=lambda row: row[0])]


@st.composite
def whole_instances(draw):
    """Losses on a coarse grid, so that float64 totals compare as exactly as the search does."""
    costs_count = draw(st.integers(1, 2))
    sizes = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 4)))]
    value = st.integers(0, draw(st.sampled_from([2, 20])))
    losses = [np.array(draw(st.lists(value, min_size=n, max_size=n))) / 8 for n in sizes]
    flat = [draw(st.lists(value, min_size=n * costs_count, max_size=n * costs_count)) for n in sizes]
    scale = draw(st.sampled_from([1, 0.25]))
    costs = [(np.array(values) * scale).reshape(-1, costs_count) for values in flat]
    return losses, costs


@given(whole_instances())
@settings(max_examples=200, deadline=None)
def test_equals_brute_force(instance):
    losses, costs = instance
    found = pareto(losses, costs)
    assert found.indices.tolist() == brute_front(losses, costs)
    assert found.costs.dtype == costs[0].dtype
    assert found.space_size == math.prod(map(len, losses))
    found.verify(samples=3)


@given(whole_instances(), st.data())
@settings(max_examples=150, deadline=None)
def test_states_equal_brute_force(instance, data):
    losses, costs = instance
    number = st.integers(0, 2)
    state_in, state_out = (
        [np.array(data.draw(st.lists(number, min_size=len(b), max_size=len(b)))) for b in losses] for _ in range(2)
    )
    expected = brute_front(losses, costs, linked=lambda b, i, j: state_out[b][i] == state_in[b + 1][j])
    if not expected:
        with pytest.raises(InfeasibleError, match="no choice connects"):
            pareto(losses, costs, state_in=state_in, state_out=state_out)
        return
    found = pareto(losses, costs, state_in=state_in, state_out=state_out)
    assert found.indices.tolist() == expected
    found.verify(samples=3)


@given(instances())
@settings(max_examples=50, deadline=None)
def test_any_floats_verify(instance):
    pareto(instance[0], instance[1]).verify(samples=3)


@pytest.mark.parametrize("names", ["madds", ("latency",), ("madds", "latency")])
@pytest.mark.parametrize("join", ["sum", "product"])
def test_front_over_tables(names, join):
    tables, costs = tables_and_costs()
    listed = [names] if isinstance(names, str) else list(names)
    score = math.fsum if join == "sum" else math.prod
    rows = [(costs.of(a), value, a) for value, a in every_architecture(tables, score)]
    points = np.array([[value, *(cost[name] for name in listed)] for cost, value, _ in rows])
    kept = [i for i, p in enumerate(points) if not ((points <= p).all(1) & (points < p).any(1)).any()]
    kept.sort(key=lambda i: points[i, 1:].tolist())
    found = front(tables, costs, names, join=join)
    assert [entry.architecture for entry in found] == [rows[i][2] for i in kept]
    assert [entry.score for entry in found] == pytest.approx([rows[i][1] for i in kept], rel=1e-13)
    assert all(entry.costs == pytest.approx(costs.of(entry.architecture), rel=1e-14) for entry in found)
    found.verify()


def test_large_front_verifies():
    rng = np.random.default_rng(0)
    costs = [rng.integers(1, 10**6, 40) for _ in range(6)]
    losses = [1 - c / 1e6 + rng.normal(0, 0.02, 40) for c in costs]
    found = pareto(losses, costs)
    assert len(found) > 500
    assert all(a < b for a, b in itertools.pairwise(found.costs[:, 0]))
    found.verify()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_verify_refuses_a_missing_point(lost):
    found = pareto([np.array([3.0, 2.0, 1.0])], [np.array([1, 2, 3])])
    found.indices, found.losses = np.delete(found.indices, lost, axis=0), np.delete(found.losses, lost)
    with pytest.raises(VerificationError, match="expected a front with the loss"):
        found.verify()


def test_verify_refuses_a_dominated_point():
    found = pareto([np.array([3.0, 2.0, 2.5])], [np.array([1, 2, 3])])
    found.indices, found.losses = np.array([[0], [1], [2]]), np.array([3.0, 2.0, 2.5])
    with pytest.raises(VerificationError, match="3 undominated points, got 2"):
        found.verify()


def test_bad_input():
    tables, costs = tables_and_costs()
    for names in ("params", [], ["madds", "madds"], ["madds", "latency", "params"]):
        with pytest.raises(InputError, match="one or two different costs of madds, latency"):
            front(tables, costs, names)
    with pytest.raises(InputError, match="one or two costs for a front, got 3"):
        pareto([np.zeros(2)], [np.zeros((2, 3))])
