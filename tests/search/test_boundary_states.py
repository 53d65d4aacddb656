"""best over spaces whose blocks depend on each other: the answer is in the space and equals an independent reference."""

import numpy as np
import pytest

from pynas import spaces
from pynas.costs import Costs
from pynas.rating import Scores, ScoreTable
from pynas.search import best, front
from pynas.spaces import Architecture

pytestmark = pytest.mark.usefixtures("kernels")

SMALL = ["hytra-mini", "nats-size", "nats-size-cifar100", "bignas-mini"]
LARGE = ["hytra", "bignas-cnn"]


def random_scores(space, seed=0):
    """A score for every path of the tables, those that the space forbids included, and a random cost."""
    rng = np.random.default_rng(seed)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
    madds = [[rng.integers(1, 100, cell.counts) for cell in cells] for cells in space.blocks]
    return Scores(space, tables), Costs({"madds": madds}, {"madds": 5})


def shortest(space, scores):
    """Least total score and its architecture, by dynamic programming over the boundary states."""
    least = {None: (0.0, ())}
    for b in range(len(space)):
        longer = {}
        for state, (total, choices) in least.items():
            for choice in space.paths(b):
                cell = space.blocks[b][choice.cell]
                if b and cell.start != state:
                    continue
                end = cell.end(choice.path)
                new = (total + scores[b][choice.cell][choice.path], (*choices, choice))
                longer[end] = min(longer.get(end, new), new, key=lambda pair: pair[0])
        least = longer
    return min(least.values(), key=lambda pair: pair[0])


@pytest.mark.parametrize("name", SMALL)
def test_equals_brute_force(name):
    space = spaces.get(name)
    scores, costs = random_scores(space)
    everything = list(space.architectures())
    spent = np.array([costs.of(architecture)["madds"] for architecture in everything])
    limit = float(np.quantile(spent, 0.3))
    totals = scores.total(everything)
    order = np.argsort(np.where(spent <= limit, totals, np.inf), kind="stable")[:3]
    found = best(scores, costs, {"madds": limit}, 3)
    assert [entry.architecture for entry in found] == [everything[i] for i in order]
    assert [entry.score for entry in found] == pytest.approx(totals[order], rel=1e-12)
    assert [scores.of(entry.architecture) for entry in found] == [totals[i] for i in order]
    assert found.certificate.space_size == space.size == len(everything)
    found.verify()


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_a_product_join_would_claim_another_answer(name):
    space = spaces.get(name)
    scores, costs = random_scores(space)
    (entry,) = best(scores, costs)
    total, choices = shortest(space, scores)
    assert entry.architecture == Architecture(choices) and entry.score == pytest.approx(total, rel=1e-12)
    assert entry.architecture in space
    claimed = best(Scores.product(scores.tables), costs)
    assert claimed.certificate.space_size > 50 * space.size
    assert claimed[0].architecture not in space and claimed[0].score < entry.score


@pytest.mark.parametrize("name", SMALL)
def test_the_front_stays_in_the_space(name):
    space = spaces.get(name)
    scores, costs = random_scores(space)
    everything = list(space.architectures())
    spent, totals = np.array([costs.of(a)["madds"] for a in everything]), scores.total(everything)
    points = front(scores, costs, "madds")
    for entry in points:
        assert entry.architecture in space
        assert entry.score == pytest.approx(totals[spent <= entry.costs["madds"]].min(), rel=1e-12)
    assert points[-1].score == pytest.approx(totals.min(), rel=1e-12)
