"""Mean best rank against its definition, group by group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynas.errors import InputError
from pynas.tabular import mean_best_rank


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
