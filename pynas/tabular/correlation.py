"""Rank correlation of scores with published accuracies, beside what trivial baselines reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pynas.errors import InputError
from pynas.rating.table import ScoreTable
from pynas.tabular.baselines import baselines
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.bootstrap import bootstrap
from pynas.tabular.path_scores import total_scores

Scores = np.ndarray | Sequence[float] | Mapping[str, float] | Sequence[Sequence[ScoreTable]]


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
    """The scores' correlation first, then each baseline's.

    everything: among all rated rows; top: among those whose accuracy is in the top part (`top_fraction`, ties included).
    picks: the accuracy in percent of the row that each would choose (the mean where several share the first place).
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
        """Plain values, for JSON; None where a correlation is not defined."""
        return _without_nan(asdict(self))


def correlate(
    scores: Scores | None,
    bench: Benchmark,
    *,
    lower_is_better: bool = True,
    top: float = 0.25,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """How well scores rank a benchmark's architectures, always beside the trivial baselines.

    scores: one per row of the benchmark, NaN where there is none; or by architecture's string; or score tables `[block][cell]`,
    summed. They are losses, lower is better, unless `lower_is_better=False`; positive correlations always mean that
    better scores go with higher accuracies. None: the baselines alone. Baselines: larger is taken for better.

    Raises:
        InputError: scores that do not fit the benchmark, are infinite, all equal, or fewer than three.
    """
    _check(top, resamples, confidence)
    bench, rated = (bench, {}) if scores is None else _rated(scores, bench, lower_is_better)
    if len(bench) < 3:
        raise InputError(f"[correlate] expected at least three architectures, got {len(bench)}")
    predictors = rated | baselines(bench, seed)
    accuracy = np.asarray(bench.accuracy, dtype=np.float64)
    bound = np.sort(accuracy)[-max(3, round(top * len(accuracy)))]
    best = accuracy >= bound
    return Comparison(
        benchmark=bench.name,
        data=bench.data,
        count=len(accuracy),
        top_fraction=top,
        top_count=int(best.sum()),
        top_accuracy=_percent(bound),
        best_accuracy=_percent(accuracy.max()),
        confidence=confidence,
        resamples=resamples,
        everything=_correlations(predictors, accuracy, resamples, confidence, seed),
        top=_correlations(
            {name: values[best] for name, values in predictors.items()}, accuracy[best], resamples, confidence, seed
        ),
        picks={name: _percent(accuracy[values == values.max()].mean()) for name, values in predictors.items()},
    )


def _rated(scores: Scores, bench: Benchmark, lower_is_better: bool) -> tuple[Benchmark, dict[str, np.ndarray]]:
    """The rows that have a score, and their scores turned so that larger is better."""
    values = scores_of_rows(scores, bench)
    rated = ~np.isnan(values)
    values = values[rated]
    if len(np.unique(values)) < 2:
        raise InputError(f"[correlate] expected scores that differ, got {values[0]} for each of {len(values):,}")
    return bench.where(rated), {"scores": -values if lower_is_better else values}


def scores_of_rows(scores: Scores, bench: Benchmark) -> np.ndarray:
    """Scores in the benchmark's order, float64 `[N]`, NaN where there is none.

    Raises:
        InputError: another number of scores, none, infinite ones, or an architecture that is not in the benchmark.
    """
    if isinstance(scores, Mapping):
        values = np.full(len(bench), np.nan)
        for architecture, score in scores.items():
            values[bench.index(architecture)] = score
    elif len(scores) and isinstance(scores[0], Sequence) and isinstance(scores[0][0], ScoreTable):
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
    found = {}
    for (name, values), estimates in zip(predictors.items(), drawn):
        finite = estimates[np.isfinite(estimates).all(axis=1)]
        if len(finite) == 0 or len(np.unique(values)) < 2 or len(np.unique(accuracy)) < 2:
            undefined = (np.nan, np.nan)
            found[name] = Correlation(np.nan, np.nan, np.nan, undefined, undefined, undefined)
            continue
        low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
        tau, rho, r = (float(test(values, accuracy)[0]) for test in (stats.kendalltau, stats.spearmanr, stats.pearsonr))
        found[name] = Correlation(tau, rho, r, *zip(low, high))
    return found


def _percent(accuracy: float) -> float:
    """Without the digits that float32 adds."""
    return round(float(accuracy), 4)


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
