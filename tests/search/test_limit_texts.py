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


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("400..0.5k", 400, 500),
        ((400, 500), 400, 500),
        (("400", None), 400, None),
        ("400..", 400, None),
        ("..500", None, 500),
        ("==450", 450, 450),
        ("=450", 450, 450),
        ("500+-10%", 450, 550),
        ("500±10%", 450, 550),
        ("500+/-60", 440, 560),
        ("40%..60%", 300, 450),
        ("60%+-10%", 405, 495),
    ],
)
def test_ranges_are_limits_from_both_sides(scores, value, low, high):
    """Every architecture between the two ends, in order, and no other one."""
    costs = costs_of(scores)
    expected = [
        (scores.of(each), each) for each in scores.space.architectures()
        if (low or 0) <= costs.of(each)["madds"] <= (high or 1e9)
    ]  # fmt: skip
    found = pynas.search.best(scores, costs, {"madds": value}, 9)
    assert 0 < len(expected) < 9 and found.exhausted
    assert sorted((entry.score, str(entry.architecture)) for entry in found) == sorted(
        (score, str(each)) for score, each in expected
    )


def test_a_range_of_times(scores):
    costs = costs_of(scores)
    # Ties at 5 ms only where the second block takes its last path.
    assert str(pynas.search.best(scores, costs, {"latency": "3ms+-0.4ms"})[0].architecture) == "2|1"
    assert pynas.search.limits.read_range("latency@phone", "1s..2s") == (1000, 2000)


@pytest.mark.parametrize(
    "value",
    [
        "500..400",
        "..",
        "1..2..3",
        (5, 4),
        (1, 2, 3),
        "==",
        "==many",
        "5+-",
        "5+-200%",
        "60%+-5",
        "60%..40%",
        "+-5%",
        "5±5%±5%",
    ],
)
def test_other_ranges_are_refused_in_one_sentence(scores, value):
    with pytest.raises(InputError, match=r"^\[best\] expected a limit on madds of 0 or more, .* got ") as refusal:
        pynas.search.best(scores, costs_of(scores), {"madds": value})
    assert "\n" not in str(refusal.value)


def test_one_lower_limit_for_a_cost(scores):
    with pytest.raises(InputError, match=r"one lower limit on madds, got '1\.\.500' and 3"):
        pynas.search.best(scores, costs_of(scores), {"madds": "1..500"}, at_least={"madds": 3})


@pytest.mark.parametrize(("value", "nearest"), [("==460", "450 and 550"), ("460..470", "450 and 550"), ("..100", None)])
def test_a_range_that_nothing_meets_names_its_neighbours(scores, value, nearest):
    with pytest.raises(
        InputError, match=f"the nearest that can be reached are {nearest}" if nearest else "the least"
    ) as refusal:
        pynas.search.best(scores, costs_of(scores), {"madds": value})
    assert nearest or "nearest" not in str(refusal.value)
