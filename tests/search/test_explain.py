"""Explanations of single architectures, against all architectures one by one."""

import importlib

import numpy as np
import pytest

from pynas.costs import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import Rules, explain
from pynas.spaces import Architecture, Space

SPACE = Space.from_counts("own", [[(3, 2), (3,)], [(2, 2)], [(3,), (2, 2)]])


def tables(ties=False):
    rng = np.random.default_rng(0)

    def scored(shape):
        return rng.integers(1, 4, shape) / 4 if ties else rng.random(shape)

    scores = Scores(SPACE, [[ScoreTable(scored(cell.counts)) for cell in cells] for cells in SPACE.blocks])
    madds = [[rng.integers(1, 20, cell.counts) for cell in cells] for cells in SPACE.blocks]
    latency = [[rng.uniform(1, 9, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return scores, Costs({"madds": madds, "latency": latency}, {"madds": 10, "latency": 0.5}, space=SPACE)


def keeps(cost, limits, at_least):
    return all(cost[n] <= v for n, v in limits.items()) and all(cost[n] >= v for n, v in at_least.items())


CASES = {
    "no limits": ({}, {}),
    "one": ({"madds": 40.0}, {}),
    "both sides": ({"madds": 45.0}, {"madds": 33.0}),
    "lower": ({}, {"latency": 12.0}),
    "two": ({"madds": 45.0, "latency": 17.0}, {"latency": 9.0}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rule", [None, "block 0: cell 1"])
def test_every_architecture_equals_brute_force(case, ties, rule):
    scores, costs = tables(ties)
    limits, at_least = CASES[case]
    rules = None if rule is None else Rules(SPACE, forbid=[rule])
    everything = [(scores.of(a), a, costs.of(a)) for a in SPACE.architectures()]
    allowed = [row for row in everything if rule is None or row[1][0].cell != 1]
    inside = [row for row in allowed if keeps(row[2], limits, at_least)]
    names = {*limits, *at_least} or {"madds", "latency"}
    beaten = 0
    everything.sort(key=lambda row: (row[0], -row[2]["latency"] if case == "lower" else row[2]["madds"]))
    for score, architecture, cost in everything[::7]:
        said = explain(scores, costs, architecture, limits, at_least=at_least, allowed=rules)
        assert said.entry.score == pytest.approx(score) and said.entry.costs == pytest.approx(cost)
        assert said.best.score == pytest.approx(min(row[0] for row in inside))
        assert said.better == sum(row[0] < score - 1e-12 for row in inside) and said.counted
        wanted = {(n, "limits", v) for n, v in limits.items() if cost[n] > v}
        wanted |= {(n, "at_least", v) for n, v in at_least.items() if cost[n] < v}
        assert {(each.cost, each.side, each.limit) for each in said.broken} == wanted
        assert all(each.value == pytest.approx(cost[each.cost]) for each in said.broken)
        assert bool(said.rules) == (rule is not None and architecture[0].cell == 1)
        assert set(said.compared) == names

        def no_worse(other, cost=cost):
            for name in names:
                lower_only = name in at_least and name not in limits
                if other[name] < cost[name] - 1e-12 if lower_only else other[name] > cost[name] + 1e-12:
                    return False
                if not lower_only and name in at_least and other[name] < min(at_least[name], cost[name]) - 1e-12:
                    return False
            return True

        rivals = [row for row in allowed if no_worse(row[2]) and row[0] <= score + 1e-12
                  and (row[0] < score - 1e-12 or any(abs(row[2][n] - cost[n]) > 1e-12 for n in names))]  # fmt: skip
        assert (said.beaten_by is None) == (not rivals)
        if rivals:
            beaten += 1
            assert said.beaten_by.architecture in [row[1] for row in rivals]
            assert said.beaten_by.score == pytest.approx(min(row[0] for row in rivals))
    assert 0 < beaten < len(everything[::7])


def test_blocks():
    scores, costs = tables()
    said = explain(scores, costs, "1:2|10|1:01", weights=[1, 2, 1])
    assert len(said.blocks) == 3
    for b, (block, weight) in enumerate(zip(said.blocks, (1, 2, 1))):
        paths = {choice: weight * scores[b][choice.cell][choice.path] for choice in SPACE.paths(b)}
        assert (
            block.score == pytest.approx(paths[block.choice]) and block.choice == Architecture.parse("1:2|10|1:01")[b]
        )
        assert block.best == min(paths, key=paths.get) and block.best_score == pytest.approx(min(paths.values()))
        assert block.paths == len(paths) and block.rank == 1 + sum(
            paths[block.choice] > each for each in paths.values()
        )
    assert sum(block.score for block in said.blocks) == pytest.approx(said.entry.score)
    product = explain(scores, costs, "1:2|10|1:01", join="product")
    assert product.entry.score == pytest.approx(np.prod(scores.by_block([product.entry.architecture])))
    assert np.exp([block.score for block in product.blocks]) == pytest.approx(
        scores.by_block([product.entry.architecture])[0]
    )


def test_the_count_ends_somewhere(monkeypatch):
    scores, costs = tables()
    ranked = sorted(SPACE.architectures(), key=scores.of)
    monkeypatch.setattr(importlib.import_module("pynas.search.explain"), "COUNTED", 20)
    for at, better, counted in ((19, 19, True), (20, 20, True), (21, 20, False), (100, 20, False)):
        said = explain(scores, costs, ranked[at])
        assert (said.better, said.counted) == (better, counted)


def test_bad_input():
    scores, costs = tables()
    with pytest.raises(InputError, match="expected an architecture of 3 blocks, got 2"):
        explain(scores, costs, "00|00")
    scores[0][0].scores[1, 1] = np.nan
    with pytest.raises(
        InputError, match=r"\[explain\] expected an architecture of rated paths, got 11\|00\|0, whose path in block 0"
    ):
        explain(scores, costs, "11|00|0")
    with pytest.raises(InfeasibleError, match="the least that can be reached"):
        explain(scores, costs, "00|00|0", {"madds": 1})
