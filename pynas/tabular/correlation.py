"""Rank correlation of scores with published accuracies, and what they find, beside those of trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pynas.errors import InputError
from pynas.rating import Scores
from pynas.tabular.baselines import baselines, costs
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.bootstrap import bootstrap, standardised
from pynas.tabular.budgets import Budgets, Regret, compare_within, percent
from pynas.tabular.path_scores import total_scores

RowScores = np.ndarray | Sequence[float] | Mapping[str, float] | Scores


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau (tau-b), Spearman's rho and Pearson's R with the accuracy: 1 is the same order, -1 the reverse.

    The intervals are percentiles of a bootstrap over the architectures. NaN where the values are all equal.
    """

    tau: float
    rho: float
    r: float
    tau_interval: tuple[float, float]
    rho_interval: tuple[float, float]
    r_interval: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Correlations, picks, regret and nDCG by name: first "scores", then each baseline.

    everything: correlations over all rated rows. top: over the rows of the highest accuracies (`top_fraction` of all, ties
        included).
    picks: accuracy in percent of the row that each ranks first, the mean where several share the first place.
    budgets: accuracies within limits of a cost. regret: those of the rows that each ranks first within them, beside the best,
        random ones and the largest. ndcg: nDCG@`ndcg_k` over all rated rows. In both, "random" is the expectation.
    """

    benchmark: str
    data: str
    count: int
    top_fraction: float
    top_count: int
    top_accuracy: float
    best_accuracy: float
    confidence: float
    resamples: int
    everything: Mapping[str, Correlation]
    top: Mapping[str, Correlation]
    picks: Mapping[str, float]
    budgets: Budgets
    regret: Mapping[str, Regret]
    ndcg_k: int
    ndcg: Mapping[str, float]

    @property
    def tau(self) -> float:
        """Kendall's tau of the scores."""
        return self.everything["scores"].tau

    @property
    def rho(self) -> float:
        """Spearman's rho of the scores."""
        return self.everything["scores"].rho

    @property
    def r(self) -> float:
        """Pearson's R of the scores."""
        return self.everything["scores"].r

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None where a correlation or nDCG is not defined."""
        return _without_nan(asdict(self))


def correlate(
    scores: RowScores | None,
    bench: Benchmark,
    *,
    lower_is_better: bool = True,
    top: float = 0.25,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
    budgets: int = 10,
    budget_cost: str = "madds",
    ndcg_k: int = 10,
) -> Comparison:
    """Correlate scores with a benchmark's accuracies, beside the trivial baselines (of which larger counts as better).

    scores: one number per row of the benchmark, NaN where there is none; a mapping from the architectures' strings; or
        `Scores`, summed over the blocks. None compares the baselines alone. They are losses unless `lower_is_better=False`;
        a positive correlation always means that better scores go with higher accuracies.
    top: share of the architectures, those of the highest accuracy, that are correlated on their own.
    resamples, confidence, seed: of the bootstrap that gives the intervals of the correlations.
    budgets, budget_cost: number of the budgets, spaced evenly from the least to the largest cost of the rated rows, and name
        of the cost, one of `costs(bench)`. ndcg_k: places that nDCG counts.

    Raises:
        InputError: scores that do not fit the benchmark, are infinite, all equal, or fewer than three; tables without
            their space; fewer than two budgets, or a cost that the benchmark does not have.
    """
    _check(top, resamples, confidence)
    bench, rated = (bench, {}) if scores is None else _rated(scores, bench, lower_is_better)
    if len(bench) < 3:
        raise InputError(f"[correlate] expected at least three architectures, got {len(bench)}")
    counted = costs(bench)
    if budget_cost not in counted:
        raise InputError(
            f"[correlate] expected budgets of {' or '.join(counted)} for {bench.name}, got {budget_cost!r}"
        )
    predictors = rated | baselines(bench, seed)
    accuracy = np.asarray(bench.accuracy, dtype=np.float64)
    bound = np.sort(accuracy)[-max(3, round(top * len(accuracy)))]
    best = accuracy >= bound
    within, regrets, gains = compare_within(predictors, accuracy, counted[budget_cost], budgets, budget_cost, ndcg_k)
    return Comparison(
        benchmark=bench.name,
        data=bench.data,
        count=len(accuracy),
        top_fraction=top,
        top_count=int(best.sum()),
        top_accuracy=percent(bound),
        best_accuracy=percent(accuracy.max()),
        confidence=confidence,
        resamples=resamples,
        everything=_correlations(predictors, accuracy, resamples, confidence, seed),
        top=_correlations(
            {name: values[best] for name, values in predictors.items()}, accuracy[best], resamples, confidence, seed
        ),
        picks={name: percent(accuracy[values == values.max()].mean()) for name, values in predictors.items()},
        budgets=within,
        regret=regrets,
        ndcg_k=ndcg_k,
        ndcg=gains,
    )


def _rated(scores: RowScores, bench: Benchmark, lower_is_better: bool) -> tuple[Benchmark, dict[str, np.ndarray]]:
    """Return the rows that have a score, and their scores with the sign by which larger is better."""
    values = scores_of_rows(scores, bench)
    rated = ~np.isnan(values)
    values = values[rated]
    if len(np.unique(values)) < 2:
        raise InputError(f"[correlate] expected scores that differ, got {values[0]} for each of {len(values):,}")
    return bench.where(rated), {"scores": -values if lower_is_better else values}


def scores_of_rows(scores: RowScores, bench: Benchmark) -> np.ndarray:
    """Return scores in the benchmark's order, float64 `[N]`, NaN where there is none.

    Raises:
        InputError: another number of scores, none, infinite ones, or an architecture that is not in the benchmark.
    """
    if isinstance(scores, Mapping):
        values = np.full(len(bench), np.nan)
        for architecture, score in scores.items():
            values[bench.index(architecture)] = score
    elif isinstance(scores, Scores) or (len(scores) and isinstance(scores[0], Sequence)):
        values = total_scores(scores, bench)  # type: ignore[arg-type]
    else:
        values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(bench),):
        raise InputError(f"[correlate] expected a score for each of the {len(bench):,} architectures of {bench.name}, "
                         f"got {list(values.shape)}")  # fmt: skip
    if np.isnan(values).all() or np.isinf(values).any():
        got = "none" if np.isnan(values).all() else f"{np.isinf(values).sum()} infinite ones"
        raise InputError(f"[correlate] expected finite scores, NaN where there is none, got {got}")
    return values


def _correlations(
    predictors: Mapping[str, np.ndarray], accuracy: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, Correlation]:
    drawn = bootstrap(list(predictors.values()), accuracy, resamples, seed)
    correlations = {}
    for (name, values), estimates in zip(predictors.items(), drawn):
        finite = estimates[np.isfinite(estimates).all(axis=1)]
        if len(finite) == 0 or len(np.unique(values)) < 2 or len(np.unique(accuracy)) < 2:
            undefined = (np.nan, np.nan)
            correlations[name] = Correlation(np.nan, np.nan, np.nan, undefined, undefined, undefined)
            continue
        low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
        scaled = standardised(values), standardised(accuracy)
        tau, rho = (float(test(values, accuracy)[0]) for test in (stats.kendalltau, stats.spearmanr))
        r = float(stats.pearsonr(*scaled)[0])
        correlations[name] = Correlation(tau, rho, r, *zip(low, high))
    return correlations


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _check(top: float, resamples: int, confidence: float) -> None:
    for name, value in (("top", top), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InputError(f"[correlate] expected {name} between 0 and 1, got {value}")
    if resamples < 1:
        raise InputError(f"[correlate] expected at least one resample, got {resamples}")


def correlations(values: np.ndarray, accuracy: np.ndarray) -> tuple[float, ...]:
    """Kendall's tau, Spearman's rho and Pearson's R of values and accuracies `[N]`; NaN where one side is all equal."""
    if len(np.unique(values)) < 2 or len(np.unique(accuracy)) < 2:
        return (np.nan,) * 3
    values, accuracy = standardised(values), standardised(accuracy)
    return tuple(float(test(values, accuracy)[0]) for test in (stats.kendalltau, stats.spearmanr, stats.pearsonr))
