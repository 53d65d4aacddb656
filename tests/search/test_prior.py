"""Scores with a cost as prior, beside sums over all networks of small spaces and beside a regression on the truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pynas import spaces
from pynas.costs import Costs, LayerCosts, LayerTable
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import agreed_weight, best, with_prior
from pynas.spaces import Cell, Space

RULED = Space("ruled", ((Cell((tuple("abc"), tuple("abc")), allowed=lambda p: p != (0, 1)),), (Cell((tuple("ab"),)),)))
FREE = Space.from_counts("free", [[(3, 2), (2,)], [(4,)], [(2, 2)]])
SPACES = [FREE, spaces.nats_size("small", widths=(8, 16, 24)), RULED]


def drawn(space: Space, seed: int = 0) -> tuple[Scores, Costs]:
    rng = np.random.default_rng(seed)
    tables = [[ScoreTable(3 + rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
    params = [[rng.integers(1, 10**6, cell.counts) for cell in cells] for cells in space.blocks]
    return Scores(space, tables), Costs({"params": params}, {"params": 1000}, space=space)


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("weight", [0, 0.7, 30])
def test_totals_are_standardised_scores_and_costs(space, weight):
    scores, costs = drawn(space)
    networks = list(space.architectures())
    params = np.array([costs.of(net)["params"] for net in networks])
    expected = standard(scores.total(networks)) - weight * standard(params)
    joined = with_prior(scores, costs, "params", weight)
    total = joined.total(networks)
    # A state of which more networks come shifts both by constants.
    np.testing.assert_allclose(total - total.mean(), expected, atol=1e-9)
    assert joined.metadata["prior"] == "params" and joined.metadata["prior_weight"] == weight
    found = best(joined, costs, {"params": np.median(params)}, top_k=3)
    inside = np.sort(total[params <= np.median(params)])
    np.testing.assert_allclose([entry.score for entry in found], inside[:3], atol=1e-9)


def test_a_single_block_takes_ranks():
    space = Space.from_counts("one", [[(3, 4)]])
    scores, costs = drawn(space)
    params = costs["params"][0][0]
    params[0, 0] = params[1, 1]  # equal costs share a rank
    networks = list(space.architectures())
    ranks = stats.rankdata(params.ravel())
    expected = standard(scores.total(networks)) - 2 * standard(stats.norm.ppf((ranks - 0.5) / 12))
    np.testing.assert_allclose(with_prior(scores, costs, "params", 2).total(networks), expected, atol=1e-9)
    # Costs by layer, and a list of rated paths.
    layers = LayerCosts({"params": LayerTable([5], [np.array([[0, 7, 1, 0], [2, 3, 9, 4]])])})
    table = ScoreTable.of_paths((3, 4), [(0, 1), (2, 3), (1, 2)], [0.3, 0.1, 0.2])
    joined = with_prior(Scores(space, [[table]]), layers, "params", 1)[0][0]
    scored = standard(np.array([0.3, 0.1, 0.2]))
    cost = standard(stats.norm.ppf(np.array([0.5, 1.5, 2.5]) / 3))  # of 8, 9 and 21
    np.testing.assert_allclose(joined.at([(0, 1), (2, 3), (1, 2)]), scored - cost[[0, 1, 2]], atol=1e-9)
    assert len(joined) == 3


def test_a_path_without_score_stays_without():
    scores, costs = drawn(FREE)
    scores[0][1].scores[1] = np.nan
    joined = with_prior(scores, costs, "params")
    assert [len(table) for cells in joined for table in cells] == [6, 1, 4, 4]


@pytest.mark.parametrize("noise, count", [(0.7, 2), (1.5, 3), (3.0, 5)])
def test_the_agreed_weight_is_that_of_a_regression_on_the_truth(noise, count):
    # The model of the docstring: truth, what the members share and the cost as good as each other, members with noise.
    rng = np.random.default_rng(3)
    space = Space.from_counts("wide", [[(40, 40)], [(40, 40)]])

    def values(std: float) -> list[np.ndarray]:
        return [std * rng.standard_normal((40, 40)) for _ in range(2)]

    def added(*parts: list[np.ndarray]) -> list[np.ndarray]:
        return [sum(each) for each in zip(*parts)]

    truth = values(1)
    shared, cost = added(truth, values(0.8)), added(truth, values(0.8))
    members = [Scores(space, [[ScoreTable(-t)] for t in added(shared, values(noise))]) for _ in range(count)]
    costs = Costs({"params": [[t] for t in cost]}, {"params": 0}, space=space)
    found = agreed_weight(members, costs, "params")
    mean = [standard(sum(-m[b][0].scores for m in members)) for b in range(2)]
    columns = np.stack([np.concatenate([m.ravel() for m in each]) for each in (mean, [standard(c) for c in cost])], 1)
    fitted = np.linalg.lstsq(columns, np.concatenate([t.ravel() for t in truth]), rcond=None)[0]
    assert found.weight == pytest.approx(fitted[1] / fitted[0], rel=0.15)
    rho = (1 + 0.8**2) / (1 + 0.8**2 + noise**2)
    assert found.reliability == pytest.approx(rho, abs=0.03) and found.members == count
    assert found.mean_reliability == pytest.approx(count * rho / (1 + (count - 1) * rho), abs=0.03)


def test_members_that_agree_leave_the_weight_at_one_and_others_raise_it():
    scores, costs = drawn(FREE)
    again = Scores(FREE, [[ScoreTable(7 * table.scores + 2) for table in cells] for cells in scores])
    assert agreed_weight([scores, again], costs, "params").weight == pytest.approx(1)
    alone = agreed_weight([scores], costs, "params")
    assert (alone.weight, alone.members, alone.reliability, alone.mean_reliability) == (1, 1, None, None)
    against = Scores(FREE, [[ScoreTable(-table.scores) for table in cells] for cells in scores])
    nothing = Scores(FREE, [[ScoreTable(table.scores + 2 * ScoreTable(o.scores).scores) for table, o in zip(*pair)]
                            for pair in zip(against, drawn(FREE, 5)[0])])  # fmt: skip
    assert agreed_weight([scores, nothing], costs, "params").weight > 1
    # The scores that all members share are the cost: nothing of them is left beside it.
    same = [Scores(FREE, [[ScoreTable(-1.0 * t) for t in cells] for cells in costs["params"]])] * 2
    assert agreed_weight(same, costs, "params").weight == 100


def test_refusals():
    scores, costs = drawn(FREE)
    for weight, text in itertools.product((-1, np.nan, np.inf), ("expected a weight of 0 or more",)):
        with pytest.raises(InputError, match=text):
            with_prior(scores, costs, "params", weight)
    with pytest.raises(InputError, match="expected one of params, got 'madds'"):
        with_prior(scores, costs, "madds")
    with pytest.raises(InputError, match="the same space"):
        with_prior(scores, drawn(Space.from_counts("other", [[(2, 3), (2,)], [(4,)], [(2, 2)]]))[1], "params")
    with pytest.raises(InputError, match="cells by block"):
        with_prior(scores, drawn(RULED)[1], "params")
    equal = Costs({"params": [[np.full(np.shape(t), 3) for t in cells] for cells in costs["params"]]}, {"params": 0})
    with pytest.raises(InputError, match="equal params for all"):
        with_prior(scores, equal, "params")
    flat = Scores(FREE, [[ScoreTable(np.ones(table.shape)) for table in cells] for cells in scores])
    with pytest.raises(InputError, match="scores that differ"):
        agreed_weight([flat], costs, "params")
