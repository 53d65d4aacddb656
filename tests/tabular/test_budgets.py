"""Regret under budgets and nDCG, against loops over networks and scikit-learn."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from pynas.errors import InputError
from pynas.tabular import correlate, cost_budgets, costs, load, ndcg, published_scores, regret


def networks(n, ties, seed=0):
    """Losses, accuracies and costs."""
    rng = np.random.default_rng(seed)
    spent = rng.integers(1, 1000, n)
    accuracy = 60 + 0.02 * spent + rng.normal(0, 4, n)
    loss = -accuracy + rng.normal(0, 3, n)
    return (np.round(loss / 4), np.round(accuracy), np.round(spent, -2) + 1) if ties else (loss, accuracy, spent)


def naive(loss, accuracy, spent, count):
    """For every budget, the accuracies of the network found, the best, a random and the largest one, by plain loops."""
    rows, least, most = [], min(spent), max(spent)
    for step in range(count):
        within = [i for i in range(len(spent)) if spent[i] <= least + (most - least) * step / (count - 1) + 1e-9]
        first = min(loss[i] for i in within)
        found = [accuracy[i] for i in within if loss[i] == first]
        costliest = max(spent[i] for i in within)
        largest = [accuracy[i] for i in within if spent[i] == costliest]
        every = [accuracy[i] for i in within]
        rows.append((sum(found) / len(found), max(every), sum(every) / len(every), sum(largest) / len(largest)))
    return np.array(rows)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [2, 7, 10])
def test_regret_is_the_loops(ties, count):
    loss, accuracy, spent = networks(60, ties)
    expected = naive(loss, accuracy, spent, count)
    within = cost_budgets(accuracy, spent, count, "energy")
    found = regret(loss, accuracy, spent, within)
    assert within.cost == "energy" and len(within.limits) == count
    assert within.counts == tuple(int((spent <= limit).sum()) for limit in within.limits)
    assert (within.limits[0], within.limits[-1], within.counts[-1]) == (spent.min(), spent.max(), 60)
    columns = np.stack([found.found, within.best, within.random, within.largest], axis=1)
    np.testing.assert_allclose(columns, expected, atol=6e-5)
    means = (found.accuracy, found.minus_best, found.minus_random, found.minus_largest)
    of = expected[:, :1] - np.hstack([np.zeros((count, 1)), expected[:, 1:]])
    np.testing.assert_allclose(means, of.mean(axis=0), atol=2e-4)
    assert found.minus_best < 0 < found.minus_random
    assert regret(-loss, accuracy, spent, within, lower_is_better=False) == found


def test_the_true_order_loses_nothing_and_chance_gains_nothing():
    _, accuracy, spent = networks(60, True)
    within = cost_budgets(accuracy, spent)
    assert regret(-accuracy, accuracy, spent, within).found == within.best
    assert regret(-accuracy, accuracy, spent, within).minus_best == 0
    assert regret(-spent, accuracy, spent, within).minus_largest == 0
    constant = regret(np.zeros(60), accuracy, spent, within)
    assert constant.minus_random == 0 and constant.found == within.random
    # The mean over many random orders.
    rng = np.random.default_rng(1)
    drawn = [regret(rng.random(60), accuracy, spent, within).minus_random for _ in range(400)]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / 20


def test_float32_accuracies_read_as_they_were_written():
    accuracy = np.array([93.4, 91.98, 91.98], np.float32)
    within = cost_budgets(accuracy, [1, 2, 3], 3)
    assert within.best == (93.4, 93.4, 93.4) and within.largest == (93.4, 91.98, 91.98)
    assert regret([3, 2, 1], accuracy, [1, 2, 3], within).found == (93.4, 91.98, 91.98)


def test_few_networks_are_cautioned_against():
    _, accuracy, spent = networks(25, False)
    assert cost_budgets(accuracy, spent).caution is None
    caution = cost_budgets(accuracy[:4], [1, 2, 3, 4]).caution
    # Budgets 1, 1.33, ..., 4: the first six hold fewer than three.
    assert (
        caution
        == "Only 4 networks, and fewer than 3 of them within 6 of the 10 budgets: too few to tell predictors apart."
    )


def gains(accuracy):
    low = np.quantile(accuracy, 0.2)
    return 2 ** (20 * np.clip((accuracy - low) / (accuracy.max() - low), 0, 1)) - 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_ndcg_is_scikit_learns(ties, k):
    loss, accuracy, _ = networks(60, ties)
    expected = ndcg_score(gains(accuracy)[None], -loss[None], k=k)
    assert ndcg(loss, accuracy, k) == pytest.approx(expected, rel=1e-12)
    assert ndcg(-loss, accuracy, k, lower_is_better=False) == ndcg(loss, accuracy, k)
    assert ndcg(-accuracy, accuracy, k) == pytest.approx(1)
    assert 0 < ndcg(loss, accuracy, k) < 1


def test_ndcg_of_ties_is_the_mean_over_their_orders():
    accuracy = np.array([70.0, 80.0, 90.0, 85.0])
    # One place for the second and the third network, and two places for three networks.
    one, other = ndcg([9, 1, 2, 9], accuracy, 1), ndcg([9, 2, 1, 9], accuracy, 1)
    assert ndcg([9, 1, 1, 9], accuracy, 1) == pytest.approx((one + other) / 2) and one < other
    orders = [ndcg([9, *order], accuracy, 2) for order in itertools.permutations([1, 2, 3])]
    assert ndcg([9, 1, 1, 1], accuracy, 2) == pytest.approx(np.mean(orders)) and np.ptp(orders) > 0.1


def test_ndcg_without_a_best_is_not_defined():
    assert np.isnan(ndcg([1, 2, 3], [90, 90, 90]))


@pytest.fixture(scope="module")
def blocks():
    return load("mbconv-23")


def test_correlate_carries_them_for_every_predictor(blocks):
    scores = published_scores(blocks)
    found = correlate(scores, blocks, resamples=2, budgets=6, budget_cost="params", ndcg_k=5)
    names = ["scores", "params", "madds", "log_width", "random"]
    assert list(found.regret) == list(found.ndcg) == list(found.everything) == names
    accuracy, spent = blocks.accuracy, costs(blocks)["params"]
    within = cost_budgets(accuracy, spent, 6, "params")
    assert found.budgets == within and found.ndcg_k == 5
    assert found.regret["scores"] == regret(scores, accuracy, spent, within)
    assert found.ndcg["scores"] == ndcg(scores, accuracy, 5)
    assert found.regret["madds"] == regret(-costs(blocks)["madds"], accuracy, spent, within)
    assert found.regret["params"].minus_largest == 0 and found.regret["random"].minus_random == 0
    assert found.regret["random"].found == within.random
    # The picks without a limit are those of the last budget.
    assert {name: found.regret[name].found[-1] for name in names[:3]} == {name: found.picks[name] for name in names[:3]}
    content = found.as_dict()
    assert content["regret"]["scores"]["found"] == list(found.regret["scores"].found)
    assert content["budgets"]["limits"][-1] == spent.max() and content["ndcg"]["madds"] == found.ndcg["madds"]


def test_budgets_are_of_the_rated_networks(blocks):
    scores = published_scores(blocks)
    spent = costs(blocks)["madds"]
    scores[spent > np.median(spent)] = np.nan
    found = correlate(scores, blocks, resamples=2)
    assert found.budgets.limits[-1] == np.median(spent) and found.budgets.counts[-1] == 12 == found.count
    assert "Only 12 networks" in found.budgets.caution


def test_the_side_of_the_scores_counts(blocks):
    right, wrong = (correlate(blocks.accuracy, blocks, resamples=2, lower_is_better=lower) for lower in (False, True))
    assert right.regret["scores"].minus_best == 0 and right.ndcg["scores"] == pytest.approx(1)
    assert wrong.regret["scores"].minus_random < 0 and wrong.ndcg["scores"] < 0.1


def test_nats_size_as_published():
    """BossNAS finds more than the largest network that fits, and less than the sum of log widths."""
    bench = load("nats-size")
    found = correlate(published_scores(bench), bench, resamples=1)
    rounded = {name: round(each.minus_largest, 2) for name, each in found.regret.items()}
    assert rounded == {"scores": 0.43, "conv_params": 0.80, "madds": 0, "log_width": 0.89, "random": -1.20}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cost_budgets([1, 2], [1, 2], 1), r"\[budgets\] expected at least two, .* got 1"),
        (lambda: cost_budgets([1, 2], [1, 2, 3]), r"expected accuracy, costs \[N\] of one length, .* got \[\[2\], \[3\]\]"),
        (lambda: cost_budgets([], []), r"at least 1, got \[\[0\], \[0\]\]"),
        (lambda: cost_budgets([1, np.nan], [1, 2]), "expected finite accuracy, got nan"),
        (lambda: cost_budgets([1, 2], [1, np.inf]), "expected finite costs, got inf"),
        (lambda: regret([1], [1, 2], [1, 2], cost_budgets([1, 2], [1, 2])), r"got \[\[1\], \[2\], \[2\]\]"),
        (lambda: ndcg([1, 2], [1, 2, 3]), r"\[ndcg\] expected as many scores as accuracies \[N\], got \[2\] and \[3\]"),
        (lambda: ndcg([1, np.inf], [1, 2]), "expected finite scores and accuracies"),
        (lambda: ndcg([1, 2], [1, 2], 0), "expected k of at least 1, got 0"),
        (lambda: correlate(None, load("mbconv-23"), budget_cost="conv_params"),
         r"expected budgets of params or madds for mbconv-23, got 'conv_params'"),
        (lambda: correlate(None, load("mbconv-23"), budgets=1), "at least two"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
