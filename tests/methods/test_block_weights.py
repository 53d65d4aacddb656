"""Block weights from a few trained networks: against a grid, and against pairs counted one by one."""

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from pynas.errors import InputError
from pynas.methods import fit_block_weights
from pynas.methods.dna.block_weights import _PULL
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Architecture


def tables(rng, blocks=2):
    return Scores.product([[ScoreTable(rng.random((3, 4)) + b)] for b in range(blocks)])


def networks(rng, count, blocks=2):
    drawn = {tuple((0, (int(rng.integers(3)), int(rng.integers(4)))) for _ in range(blocks)) for _ in range(8 * count)}
    return [Architecture.of(choices) for choices in sorted(drawn)][:count]


def block_scores(scores, nets):
    return np.array([[scores[b][0].scores[choice.path] for b, choice in enumerate(net)] for net in nets])


def objective(weights, scores, accuracy):
    """The docstring's formula, pair by pair."""
    z = scores / scores.std(0)
    terms = [
        np.log1p(np.exp(-(weights * (z[j] - z[i])).sum()))
        for i, j in itertools.permutations(range(len(z)), 2)
        if accuracy[i] > accuracy[j]
    ]
    return np.mean(terms) + _PULL * np.mean((weights - 1) ** 2)


@pytest.mark.parametrize("true", [(1.0, 0.0), (0.3, 2.0), (-1.0, 1.0)])
def test_the_weights_are_the_best_of_a_grid(true):
    rng = np.random.default_rng(0)
    scores, nets = tables(rng), networks(rng, 9)
    rows = block_scores(scores, nets)
    accuracy = -(rows @ np.array(true)) + 0.05 * rng.standard_normal(len(rows))
    found = fit_block_weights(scores, nets, accuracy)
    ray = np.array(found.weights) * rows.std(0)
    reached = optimize.minimize_scalar(lambda scale: objective(scale * ray, rows, accuracy), (1, 2), tol=1e-9).fun
    axis = np.linspace(0, 9, 19)
    others = [objective(np.array(pair), rows, accuracy) for pair in itertools.product(axis, axis)]
    assert reached <= min(others) + 1e-6 and reached < np.median(others) - 0.05
    assert found.tau == pytest.approx(stats.kendalltau(-rows @ np.array(found.weights), accuracy).statistic)
    assert found.uniform_tau == pytest.approx(stats.kendalltau(-rows.sum(1), accuracy).statistic)
    assert found.tau >= found.uniform_tau - 1e-9


def test_leaving_one_out_counts_each_networks_pairs():
    rng = np.random.default_rng(1)
    scores, nets = tables(rng), networks(rng, 7)
    rows, accuracy = block_scores(scores, nets), rng.random(7)
    agree = []
    for i in range(7):
        rest = [j for j in range(7) if j != i]
        weights = fit_block_weights(scores, [nets[j] for j in rest], accuracy[rest]).weights
        joined = rows @ np.array(weights)
        agree += [1 if (joined[i] < joined[j]) == (accuracy[i] > accuracy[j]) else -1 for j in rest]
    assert fit_block_weights(scores, nets, accuracy).left_out_tau == pytest.approx(np.mean(agree))


def test_a_block_without_news_gets_no_weight():
    rng = np.random.default_rng(2)
    scores, nets = tables(rng), networks(rng, 6)
    scores[0][0].scores[:] = 0.5
    accuracy = -block_scores(scores, nets)[:, 1]
    found = fit_block_weights(scores, nets, accuracy)
    assert found.weights == pytest.approx((0, 2)) and found.tau == pytest.approx(1)


def test_what_cannot_be_fitted_is_refused():
    rng = np.random.default_rng(3)
    scores, nets = tables(rng), networks(rng, 5)
    with pytest.raises(InputError, match="at least 4 networks with an accuracy each, got 3 and 3"):
        fit_block_weights(scores, nets[:3], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="accuracies that differ"):
        fit_block_weights(scores, nets, [0.5] * 5)
    scores[1][0].scores[nets[2][1].path] = np.nan
    with pytest.raises(InputError, match="a score of every path, got nan for block 2"):
        fit_block_weights(scores, nets, range(5))


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_huge_and_tiny_scores_get_the_weights_of_usual_ones(factor):
    rng = np.random.default_rng(0)
    scores, nets = tables(rng), networks(rng, 9)
    accuracy = rng.random(len(nets))
    usual = fit_block_weights(scores, nets, accuracy).weights
    scaled = Scores.product([[ScoreTable(scores[b][0].scores * factor)] for b in range(2)])
    np.testing.assert_allclose(fit_block_weights(scaled, nets, accuracy).weights, usual, rtol=1e-3)
