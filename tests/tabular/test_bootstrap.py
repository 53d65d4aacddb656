"""The vectorised bootstrap against scipy on resampled rows."""

import numpy as np
import pytest
from scipy import stats

from pynas.tabular.bootstrap import _draws, bootstrap, concordance


def naive(values, accuracy, resamples, seed):
    found = []
    for counts in np.concatenate(list(_draws(len(values), resamples, seed))):
        rows = np.repeat(np.arange(len(values)), counts.astype(int))
        found.append([test(values[rows], accuracy[rows])[0]
                      for test in (stats.kendalltau, stats.spearmanr, stats.pearsonr)])  # fmt: skip
    return np.array(found)


def table(n, ties):
    rng = np.random.default_rng(n)
    accuracy = rng.normal(90, 2, n)
    predictors = [accuracy + rng.normal(0, spread, n) for spread in (1, 4)]
    return ([np.round(p) for p in predictors], np.round(accuracy)) if ties else (predictors, accuracy)


@pytest.mark.parametrize("ties", [False, True])
def test_every_resample_is_scipys(ties):
    predictors, accuracy = table(40, ties)
    drawn = bootstrap(predictors, accuracy, 30, seed=3)
    assert drawn.shape == (2, 30, 3)
    for found, values in zip(drawn, predictors):
        np.testing.assert_allclose(found, naive(values, accuracy, 30, 3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_linearised_tau_has_the_exact_ones_spread(ties):
    predictors, accuracy = table(1000, ties)
    exact = bootstrap(predictors, accuracy, 200, seed=0)
    linear = bootstrap(predictors, accuracy, 200, seed=0, exact_pairs=1)
    np.testing.assert_array_equal(exact[..., 1:], linear[..., 1:])
    # What is left out is of order 1/n in a resample, against the interval's 1/sqrt(n), and cancels in the spread.
    assert (np.sqrt(((exact - linear)[..., 0] ** 2).mean(axis=1)) < 2 / 1000).all()
    np.testing.assert_allclose(linear[..., 0].std(axis=1), exact[..., 0].std(axis=1), rtol=0.03)


def test_one_seed_one_result_and_chunks_do_not_matter(monkeypatch):
    predictors, accuracy = table(30, False)
    whole = bootstrap(predictors, accuracy, 20, seed=1)
    monkeypatch.setattr("pynas.tabular.bootstrap._CHUNK", 90)
    np.testing.assert_allclose(bootstrap(predictors, accuracy, 20, seed=1), whole, rtol=1e-12)
    assert (bootstrap(predictors, accuracy, 20, seed=2) != whole).any()


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 700])
@pytest.mark.parametrize("values", [3, 10**6])
def test_concordance_is_the_sum_over_all_pairs(n, values):
    rng = np.random.default_rng(n)
    x, y = rng.integers(values, size=(2, n))
    expected = (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum(axis=1)
    np.testing.assert_array_equal(concordance(x, y), expected)


def test_intervals_cover_the_truth():
    """Of 95 % intervals about 95 % hold the true correlation (here tau = 2 / pi asin(rho) of a normal pair)."""
    rng, rho, held = np.random.default_rng(0), 0.6, 0
    truth = np.array([2 / np.pi * np.arcsin(rho), 6 / np.pi * np.arcsin(rho / 2), rho])
    for trial in range(60):
        x, noise = rng.normal(size=(2, 150))
        drawn = bootstrap([x], rho * x + np.sqrt(1 - rho**2) * noise, 200, seed=trial)[0]
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        held = held + ((low <= truth) & (truth <= high))
    assert (held >= 51).all() and (held <= 60).all()
