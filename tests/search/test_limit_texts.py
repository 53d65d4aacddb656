"""Limits as texts and shares, where architectures are searched without a run."""

import numpy as np
import pytest

import pynas
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Space


@pytest.fixture
def scores():
    tables = [[ScoreTable(np.array([3.0, 2.0, 1.0]))], [ScoreTable(np.array([6.0, 4.0, 2.0]))]]
    return Scores(Space.from_counts("own", [[(3,)], [(3,)]]), tables)


def costs_of(scores, **metadata):
    madds = [[np.array([100, 200, 300])], [np.array([100, 200, 400])]]
    return Costs({"madds": madds, "latency": [[np.ones(3)], [np.array([1.0, 2.0, 4.0])]]}, {"madds": 50, "latency": 0.0},
                 metadata, space=scores.space)  # fmt: skip


def found(scores, costs, limits, **options):
    return str(pynas.search.best(scores, costs, limits, **options)[0].architecture)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.45k", 450), ("450", 450), ("60%", 450), ("60% of the largest network", 450), ("none", None)],
)
def test_texts_are_the_numbers_that_they_say(scores, text, number):
    # The most expensive architecture has 50 + 300 + 400 = 750 multiply-adds.
    costs = costs_of(scores)
    assert found(scores, costs, {"madds": text}) == found(scores, costs, {"madds": number})
    assert found(scores, costs, {"madds": 450}) != found(scores, costs, {"madds": None})


def test_times_and_lower_limits(scores):
    costs = costs_of(scores)
    assert found(scores, costs, {"latency": "3ms"}) == found(scores, costs, {"latency": 3.0}) == "2|1"
    worst = {"madds": "350"}
    assert found(scores, costs, worst, at_least={"madds": "40%"}) == found(
        scores, costs, worst, at_least={"madds": 300}
    )


def test_a_share_is_of_the_reference_where_the_costs_have_one(scores):
    costs = costs_of(scores, reference={"madds": 600})
    assert found(scores, costs, {"madds": "75%"}) == found(scores, costs, {"madds": 450})
    assert found(scores, costs, {"madds": "75%"}) != found(scores, costs, {"madds": 0.75 * 750})


@pytest.mark.parametrize("text", ["sixty", "60% of teacher", "60%%", True, float("nan")])
def test_other_limits_are_refused(scores, text):
    with pytest.raises(InputError, match=r"madds|number"):
        pynas.search.best(scores, costs_of(scores), {"madds": text})
