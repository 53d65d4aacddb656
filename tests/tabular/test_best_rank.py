"""Mean best rank against its definition, group by group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynas import tabular
from pynas.errors import InputError
from pynas.tabular import cost_groups, mean_best_rank


def naive(scores, accuracy, groups):
    above = below = 0.0
    for group in set(groups):
        members = [i for i, g in enumerate(groups) if g == group]
        least = min(scores[i] for i in members)
        ranks = []
        for i in (i for i in members if scores[i] == least):
            better = sum(accuracy[j] > accuracy[i] for j in members)
            equal = sum(accuracy[j] == accuracy[i] for j in members)
            ranks.append(better + (equal + 1) / 2)
        above += sum(ranks) / len(ranks) - 1
        below += len(members) - 1
    return above / below


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(0, 3)), min_size=5, max_size=40))
def test_is_the_definition(rows):
    scores, accuracy, groups = zip(*rows)
    assert mean_best_rank(scores, accuracy, groups) == pytest.approx(naive(scores, accuracy, groups))


def test_ends_and_chance():
    accuracy = np.arange(12.0)
    groups = np.repeat(["a", "b", "c"], [6, 5, 1])
    assert mean_best_rank(-accuracy, accuracy, groups) == 0
    assert mean_best_rank(accuracy, accuracy, groups) == 1
    assert mean_best_rank(accuracy, accuracy, groups, lower_is_better=False) == 0
    assert mean_best_rank(np.zeros(12), accuracy, groups) == 0.5


@pytest.mark.parametrize(
    ("scores", "accuracy", "groups", "message"),
    [
        ([1, 2], [1, 2], [0], r"as many scores, accuracies and groups, got \[2\], \[2\] and \[1\]"),
        ([1, np.nan], [1, 2], [0, 0], "expected finite scores and accuracies"),
        ([1, 2], [1, 2], [0, 1], "expected a group with two networks, got 2 of one each"),
    ],
)
def test_bad_input(scores, accuracy, groups, message):
    with pytest.raises(InputError, match=message):
        mean_best_rank(scores, accuracy, groups)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(100, 130)), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.03, 0.2]),
)
def test_groups_hold_what_costs_the_same(rows, tolerance):
    params, madds = (np.array(column) for column in zip(*rows))
    groups = cost_groups({"params": params, "madds": madds}, tolerance)
    for i in range(len(rows)):
        for j in range(len(rows)):
            together = groups[i] == groups[j]
            if tolerance == 0:
                assert together == (rows[i] == rows[j])
            elif together:
                for low, high in (sorted(pair) for pair in zip(rows[i], rows[j])):
                    assert high <= low * (1 + tolerance) * (1 + 1e-12)
            else:
                assert rows[i] != rows[j]
    assert set(groups) == set(range(groups.max() + 1))


def test_cells_of_equal_cost_have_equally_many_convolutions_of_each_kind():
    bench = tabular.load("nasbench201")
    costs = tabular.costs(bench)
    groups = cost_groups({name: costs[name] for name in ("params", "madds")})
    kinds = [tuple(name.count(f"nor_conv_{k}x{k}") for k in (1, 3)) for name in bench.architectures]
    assert len(set(zip(groups.tolist(), kinds))) == len(set(kinds)) == groups.max() + 1 == 28
    # What costs the same, no count of parameters tells apart: it picks by chance.
    assert mean_best_rank(costs["params"], bench.accuracy, groups) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("costs", "tolerance", "message"),
    [
        ({}, 0, r"costs \[N\] of one length, got \[\]"),
        ({"params": [1, 2], "madds": [1]}, 0, r"got \[\[2\], \[1\]\]"),
        ({"params": [1, 0]}, 0, "above 0 and a tolerance of at least 0, got 0 and costs from 0.0"),
        ({"params": [1, np.nan]}, 0, "expected costs above 0"),
        ({"params": [1, 2]}, -0.1, "got -0.1"),
    ],
)
def test_groups_of_bad_input(costs, tolerance, message):
    with pytest.raises(InputError, match=message):
        cost_groups(costs, tolerance)
