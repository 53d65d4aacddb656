"""The best isomer of every group against the enumeration of all paths; the greedy allocation against algorithm 1."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas.errors import InputError
from pynas.zero_cost import exact, greedy


def by_enumeration(values, units):
    """The highest sum of values by totals, over all paths."""
    best = {}
    for path in itertools.product(range(len(units)), repeat=len(values)):
        totals = tuple(sum(units[c] for c in path).tolist())
        best[totals] = max(best.get(totals, -np.inf), sum(layer[c] for layer, c in zip(values, path)))
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_exact_is_the_maximum_of_every_group(layers, candidates, kinds, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-8, 9, (layers, candidates)) / 4
    units = rng.integers(-3, 4, (candidates, kinds))
    groups, best = exact(values, units), by_enumeration(values, units)
    assert [tuple(totals) for totals in groups.totals.tolist()] == sorted(best)
    assert groups.scores.tolist() == [best[key] for key in sorted(best)]
    for path, totals, score in zip(groups.paths, groups.totals, groups.scores):
        assert units[path].sum(0).tolist() == totals.tolist()
        assert values[np.arange(layers), path].sum() == score


def naive_greedy(scores, total):
    """PreNAS, algorithm 1: scores[l][c] of choice c in layer l, the lowest first."""
    allocation = [0] * len(scores)
    for _ in range(total):
        gains = [row[a + 1] - row[a] if a + 1 < len(row) else -np.inf for row, a in zip(scores, allocation)]
        allocation[int(np.argmax(gains))] += 1
    return allocation


@pytest.mark.parametrize("choices", [2, 3, 4])
def test_greedy_is_algorithm_1_and_exact_for_two_choices(choices):
    rng, lost = np.random.default_rng(choices), 0
    units = np.arange(choices)[:, None]
    for _ in range(20):
        scores = rng.random((4, choices)).cumsum(1)
        groups = exact(scores, units)
        for total, best in zip(groups.totals[:, 0], groups.scores):
            steps = greedy(np.diff(scores, axis=1), total)
            assert steps.tolist() == naive_greedy(scores, total)
            found = scores[np.arange(4), steps].sum()
            assert found <= best + 1e-12
            lost += found < best - 1e-9
    assert (lost == 0) == (choices == 2)


def test_ties_go_to_the_earlier_candidate():
    groups = exact(np.zeros((2, 2)), np.array([[0], [0]]))
    assert groups.paths.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("values", "units", "message"),
    [
        (np.array([[1.0, np.nan]]), [[0], [1]], "finite values"),
        (np.zeros((2, 3)), [[0], [1]], r"\[L, C\] and units \[C, K\]"),
        (np.zeros((0, 2)), [[0], [1]], r"\[L, C\] and units \[C, K\]"),
        (np.zeros((2, 2)), [[0, 0], [2**40, 2**40]], "fit one number of 64 bits"),
    ],
)
def test_bad_input_is_named(values, units, message):
    with pytest.raises(InputError, match=message):
        exact(values, units)


def test_too_many_steps_and_useless_gains_are_named():
    with pytest.raises(InputError, match="between 0 and 6 steps to allocate, got 7"):
        greedy(np.ones((3, 2)), 7)
    with pytest.raises(InputError, match="finite gains"):
        greedy(np.array([[1.0], [np.nan]]), 1)
