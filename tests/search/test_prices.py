"""Prices of limits, against the best of all architectures one by one at each moved limit."""

import numpy as np
import pytest

from pynas.costs import Costs
from pynas.errors import InfeasibleError
from pynas.rating import Scores, ScoreTable
from pynas.search import Rules, best, prices
from pynas.spaces import Space

SPACE = Space.from_counts("own", [[(3, 3), (4,)], [(2, 3)], [(4,), (2, 2, 2)]])


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(3)
    scores = Scores(SPACE, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in SPACE.blocks])
    madds = [[rng.integers(1, 99, cell.counts) for cell in cells] for cells in SPACE.blocks]
    latency = [[rng.uniform(1, 9, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return scores, Costs({"madds": madds, "latency": latency}, {"madds": 10, "latency": 0.5}, space=SPACE)


def naive(scored, upper, lower, kept=lambda a: True):
    scores, costs = scored
    found = [scores.of(a) for a in SPACE.architectures() if kept(a) and all(costs.of(a)[n] <= v for n, v in upper.items())
             and all(costs.of(a)[n] >= v for n, v in lower.items())]  # fmt: skip
    return min(found, default=None)


@pytest.mark.parametrize("rule", [None, "block 0: cell 0"])
def test_equals_brute_force_at_every_moved_limit(scored, rule):
    rules = None if rule is None else Rules(SPACE, forbid=[rule])

    def kept(architecture):
        return rule is None or architecture[0].cell != 0

    limits = {"limits": {"madds": 100.0, "latency": 16.0}, "at_least": {"latency": 13.0}}
    priced = prices(*scored, limits["limits"], at_least=limits["at_least"], allowed=rules)
    assert {(each.cost, each.side) for each in priced} == {
        ("madds", "limits"),
        ("latency", "limits"),
        ("latency", "at_least"),
    }
    for each in priced:

        def at(value, each=each):
            moved = {side: dict(by) for side, by in limits.items()}
            moved[each.side][each.cost] = value
            return naive(scored, moved["limits"], moved["at_least"], kept)

        assert each.limit == limits[each.side][each.cost] and each.score == pytest.approx(at(each.limit))
        assert [to for to, _ in each.moved] == [0.95 * each.limit, 1.05 * each.limit]
        assert [score for _, score in each.moved] == pytest.approx([at(0.95 * each.limit), at(1.05 * each.limit)])
        assert each.free == pytest.approx(at(np.inf if each.side == "limits" else 0))
        assert each.binding == (each.free < each.score - 1e-12)
    assert any(each.binding for each in priced) and any(
        a != b for each in priced for (_, a), b in zip(each.moved, [each.score] * 2)
    )


def test_the_multiplier_is_the_slope_of_a_valid_bound(scored):
    """For any multiplier m >= 0 no score within the limit L goes below min(score + m cost) - m L."""
    scores, costs = scored
    rows = [(scores.of(a), costs.of(a)["madds"]) for a in SPACE.architectures()]
    (price,) = prices(*scored, {"madds": 90})
    found = best(*scored, {"madds": 90})
    assert price.multiplier > 0
    bound = min(score + price.multiplier * cost for score, cost in rows) - price.multiplier * 90
    assert bound == pytest.approx(found.certificate.relaxation, rel=1e-6) and bound <= price.score
    raised = best(*scored, {"madds": 94.5}).certificate.relaxation
    assert raised <= found.certificate.relaxation


def test_limits_that_nothing_breaks_have_no_price(scored):
    assert prices(*scored, {"madds": 10_000}, at_least={"madds": 1}) == []
    least = min(scored[1].of(a)["madds"] for a in SPACE.architectures())
    (price,) = prices(*scored, {"madds": least})
    assert price.moved[0][1] is None and price.moved[1][1] is not None
    with pytest.raises(InfeasibleError, match=f"the least that can be reached is {least}"):
        prices(*scored, {"madds": least - 1})
