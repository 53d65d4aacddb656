"""Rank correlations: the published figures, and the conventions."""

import json

import numpy as np
import pytest
from scipy import stats

from pynas import Scores, ScoreTable
from pynas.errors import InputError
from pynas.tabular import baselines, correlate, load, load_path_scores, published_scores


@pytest.fixture(scope="module")
def size():
    return load("nats-size")


@pytest.fixture(scope="module")
def blocks():
    return load("mbconv-23")


def test_bossnas_on_nats_size(size):
    found = correlate(published_scores(size), size, resamples=20)
    assert (round(found.tau, 4), round(found.rho, 4), round(found.r, 4)) == (0.5336, 0.7342, 0.7181)
    assert found.picks["scores"] == 93.29 and found.best_accuracy == 93.65
    assert round(found.everything["log_width"].tau, 3) == 0.813
    low, high = found.everything["scores"].tau_interval
    assert low < found.tau < high and high - low < 0.02
    assert abs(found.everything["random"].tau) < 0.01


def test_bossnas_on_mbconv(blocks):
    found = correlate(published_scores(blocks), blocks)
    assert (round(found.tau, 4), round(found.rho, 4), round(found.r, 4)) == (0.6468, 0.7771, 0.8470)
    assert list(found.everything) == ["scores", "params", "madds", "log_width", "random"]
    # Unrounded, two totals are no longer equal: the printed four decimals are what the published figures rest on.
    assert round(correlate(load_path_scores("mbconv-23"), blocks).tau, 4) == 0.6443


def test_log_width_above_92_percent(size):
    best = size.where(size.accuracy > 92)
    found = correlate(None, best, resamples=20)
    assert round(found.everything["log_width"].tau, 3) == 0.570
    assert "scores" not in found.everything


@pytest.mark.parametrize(("data", "tau"), [("cifar10", 0.578), ("cifar100", 0.553), ("imagenet16-120", 0.520)])
def test_convolution_parameters_on_nasbench201(data, tau):
    found = correlate(None, load("nasbench201", data), resamples=20)
    assert round(found.everything["conv_params"].tau, 3) == tau


def test_seed_against_seed_on_nasbench201():
    bench = load("nasbench201")
    complete = ~np.isnan(bench.seeds).any(axis=1)
    first, second = bench.seeds[complete, 0], bench.seeds[complete, 1]
    assert round(stats.kendalltau(first, second)[0], 3) == 0.909


def test_scores_are_losses_unless_told_otherwise(blocks):
    found = correlate(-blocks.accuracy, blocks, resamples=50)
    assert (found.tau, found.rho, found.r) == pytest.approx((1, 1, 1))
    assert found.top["scores"].tau == pytest.approx(1) and found.picks["scores"] == 75.52
    assert correlate(blocks.accuracy, blocks, resamples=50).tau == pytest.approx(-1)
    assert correlate(blocks.accuracy, blocks, resamples=50, lower_is_better=False).tau == pytest.approx(1)


def test_the_top_quarter_and_its_baselines(size):
    scores = published_scores(size)
    found = correlate(scores, size, resamples=5)
    order = np.argsort(-size.accuracy, kind="stable")
    top = size.accuracy >= size.accuracy[order[len(size) // 4 - 1]]
    assert found.top_count == top.sum() >= len(size) // 4
    for name, values in {"scores": -scores, **baselines(size)}.items():
        assert found.top[name].tau == pytest.approx(stats.kendalltau(values[top], size.accuracy[top])[0])
        assert found.top[name].rho == pytest.approx(stats.spearmanr(values[top], size.accuracy[top])[0])


def test_scores_by_architecture_with_gaps_and_as_tables(blocks):
    tables = load_path_scores("mbconv-23")
    whole = correlate(tables, blocks, resamples=30)
    totals = dict(zip(blocks.architectures, _totals(tables, blocks)))
    assert correlate(totals, blocks, resamples=30) == whole
    some = dict(list(totals.items())[:9])
    found = correlate(some, blocks, resamples=30)
    assert found.count == 9
    assert found.tau == pytest.approx(stats.kendalltau([-v for v in some.values()], blocks.accuracy[:9])[0])
    padded = np.array([*some.values(), *[np.nan] * 14])
    assert correlate(padded, blocks, resamples=30) == found


def _totals(tables, bench):
    return [sum(tables[b][0][tuple(map(int, path))] for b, path in enumerate(name.split("|")))
            for name in bench.architectures]  # fmt: skip


def test_picks_share_the_first_place(blocks):
    scores = np.ones(23)
    scores[[3, 7]] = 0
    assert correlate(scores, blocks, resamples=5).picks["scores"] == pytest.approx(
        blocks.accuracy[[3, 7]].mean(), abs=1e-4
    )


@pytest.mark.parametrize("factor", [1e154, 1e300, 1e-160, 5e-309])
def test_huge_and_tiny_scores_correlate_as_usual_ones(blocks, factor):
    scores = np.random.default_rng(0).random(23)
    usual, scaled = (correlate(values, blocks, resamples=20) for values in (scores, scores * factor))
    for name in ("tau", "rho", "r"):
        assert getattr(scaled, name) == pytest.approx(getattr(usual, name), rel=1e-12)
    assert scaled.everything["scores"].r_interval == pytest.approx(usual.everything["scores"].r_interval, rel=1e-9)


def test_what_is_not_defined_is_null_in_json(blocks):
    scores = np.where(np.arange(23) < 6, 1.0, 2.0)  # equal among the top quarter, the first six or so
    top = np.argsort(-blocks.accuracy)[:6]
    scores[top] = 1.0
    content = correlate(scores, blocks, resamples=20).as_dict()
    assert content["top"]["scores"]["tau"] is None and content["top"]["scores"]["tau_interval"] == [None, None]
    assert content["everything"]["scores"]["tau"] is not None
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([1.0, 2.0], {}, r"a score for each of the 23 architectures of mbconv-23, got \[2\]"),
        (np.ones(23), {}, "expected scores that differ, got 1.0 for each of 23"),
        (np.full(23, np.nan), {}, "expected finite scores, NaN where there is none, got none"),
        (np.array([np.inf, *range(22)]), {}, "got 1 infinite ones"),
        (np.array([1.0, 2.0, *[np.nan] * 21]), {}, "at least three architectures, got 2"),
        ({"11|1111": 1.0}, {}, r"\[mbconv-23\] expected one of its 23 architectures"),
        (Scores.product([[ScoreTable(np.zeros(4))]]), {}, "expected score tables of one cell per block with 18 layers"),
        ([[ScoreTable(np.zeros(4))]], {}, r"expected Scores, got list; write Scores\(space, tables\)"),
        (np.arange(23.0), {"top": 0}, "expected top between 0 and 1, got 0"),
        (np.arange(23.0), {"confidence": 95}, "expected confidence between 0 and 1, got 95"),
        (np.arange(23.0), {"resamples": 0}, "expected at least one resample, got 0"),
    ],
)
def test_bad_input(blocks, scores, options, message):
    with pytest.raises(InputError, match=message):
        correlate(scores, blocks, **options)
