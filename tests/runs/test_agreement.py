"""Error bars of averaged scores and the networks that they do not tell apart, beside simulation and brute force."""

import numpy as np
import pytest

from pynas import search
from pynas.costs import Costs
from pynas.rating import Scores, ScoreTable, average, standardised
from pynas.rating.averaging import seed_variances
from pynas.runs.agreement import ErrorBar, agreement, alike, indistinct
from pynas.spaces import Space

SPACE = Space.from_counts("free", [[(5, 3), (4,)], [(4, 4)], [(3, 3), (2, 2)]])


def rated(count: int, noise: float, seed: int = 0) -> list[Scores]:
    """Ratings with a truth in common, and an error, an offset and a scale of their own."""
    truth, rng = np.random.default_rng(7), np.random.default_rng(seed)
    tables = [[truth.normal(size=cell.counts) * (b + 1) for cell in cells] for b, cells in enumerate(SPACE.blocks)]
    return [
        Scores(
            SPACE,
            [
                [ScoreTable(scale * (t + noise * (b + 1) * rng.normal(size=t.shape)) + b) for t in row]
                for b, row in enumerate(tables)
            ],
        )
        for scale in rng.uniform(0.1, 10, count)
    ]


def costs_of(space: Space) -> Costs:
    rng = np.random.default_rng(1)
    return Costs({"madds": [[rng.integers(1, 50, c.counts) for c in cells] for cells in space.blocks]}, {"madds": 0})


def test_variances_are_pooled_over_the_paths_of_a_block():
    members = rated(3, 0.5)
    each = [standardised(member) for member in members]
    for b, variance in enumerate(seed_variances(members)):
        rows = np.array([[m[b][choice.cell][choice.path] for choice in SPACE.paths(b)] for m in each])
        naive = sum((row - np.mean(rows, axis=0)) ** 2 for row in rows).sum() / (2 * (rows.shape[1] - 1))
        assert variance == pytest.approx(naive)


@pytest.mark.parametrize("count", [2, 4])
def test_differences_err_as_the_error_bar_says(count):
    """Over many runs: how much the difference of two networks errs, beside what each run says of that."""
    everything = list(SPACE.architectures())[::7]
    expected = average(rated(300, 0.6, seed=1)).total(everything)
    pairs = np.random.default_rng(2).integers(len(everything), size=(20, 2))
    squares, estimates = [], []
    for trial in range(60):
        members = rated(count, 0.6, seed=100 + trial)
        errors, bar = average(members).total(everything) - expected, ErrorBar(members)
        squares.append(2 * errors.var())  # the mean over all pairs
        estimates.append(np.mean([(bar.between(everything[i], everything[j]) / 1.96) ** 2 for i, j in pairs]))
    assert np.mean(squares) == pytest.approx(np.mean(estimates), rel=0.2)


@pytest.mark.parametrize(("noise", "limit"), [(0.02, None), (0.3, None), (0.3, 60), (1.5, 80)])
def test_the_count_is_that_of_brute_force(noise, limit):
    members, costs = rated(3, noise), costs_of(SPACE)
    scores, bar = average(members), ErrorBar(members)
    asked = []

    def find(top_k):
        asked.append(top_k)
        return search.best(scores, costs, {"madds": limit}, top_k=top_k)

    inside = [a for a in SPACE.architectures() if limit is None or costs.of(a)["madds"] <= limit]
    total = dict(zip(inside, scores.total(inside).tolist()))
    best = min(inside, key=total.__getitem__)
    naive = [best]
    for other in inside:
        differ = [b for b in range(3) if other[b] != best[b]]
        distance = 1.96 * np.sqrt(2 * sum(bar.variances[b] for b in differ))
        if other != best and total[other] - total[best] < distance:
            naive.append(other)
    found, complete = indistinct(find, bar, most=5000)
    assert complete and {entry.architecture for entry in found} == set(naive) and len(found) == len(naive)
    content, cheapest = alike(members, find, None, "madds")
    assert content == {"alike": len(naive), "all_alike": True, "cost": "madds"}
    assert [e.costs["madds"] for e in cheapest] == sorted(costs.of(a)["madds"] for a in naive)[:5]
    if len(naive) > 64:
        assert asked[:2] == [64, 128]
        few, complete = indistinct(find, bar, most=40)
        assert not complete and {e.architecture for e in few} <= set(naive)


def test_weights_of_blocks_weigh_the_error():
    members = rated(2, 0.5)
    plain, weighted = ErrorBar(members), ErrorBar(members, [2, 0, 1])
    assert weighted.error == pytest.approx(np.sqrt(4 * plain.variances[0] + plain.variances[2]))


def test_members_that_contradict_each_other_have_an_average_that_says_nothing():
    one = rated(1, 0)[0]
    other = Scores(SPACE, [[ScoreTable(-table.scores) for table in cells] for cells in one])
    content = agreement([one, other])
    assert content["pearson"] == pytest.approx(-1) and content["pearson_of_averages"] == 0
    same = agreement([one, one])
    assert same["error"] == 0 and same["pearson_of_averages"] == pytest.approx(1)
