"""Scores fitted to a few trained networks: a linear model of block scores and costs, around a prior."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import RepeatedKFold

from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.rating.averaging import standardised
from pynas.search.features import BY_LAYER, COSTS, Features
from pynas.search.prior import with_priors
from pynas.spaces import Architecture

LEAST = 5
MODELS = ("ridge", "gp")
# Variance of what a group of features explains, over that of the noise.
_SHARES = (0.0, 0.03, 0.3, 3.0, 30.0)
_FOLDS, _REPEATS = 5, 10


@dataclass(frozen=True)
class Calibration:
    """Scores whose sum over the blocks is minus the predicted accuracy, and how they were fitted.

    weights: by name, of the standardised features, in points of the accuracy; `prior` is that of the scores and costs in
    equal parts. explained: by group of features, the variance that it explains over that of the noise, as expected. left_out: a
    prediction for every network `[N]` by fits to other networks, up to a constant: the mean over 10 repeats of 5-fold
    cross-validation. prior: minus the prior of each network `[N]`.
    """

    scores: Scores
    weights: dict[str, float]
    explained: dict[str, float]
    left_out: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class _Fit:
    slope: float
    weights: np.ndarray
    explained: np.ndarray

    def __call__(self, anchor: np.ndarray, features: np.ndarray) -> np.ndarray:
        return self.slope * anchor + features @ self.weights


def calibrate(
    scores: Scores, costs: Any, architectures: Sequence[Architecture], accuracies: Sequence[float], *, seed: int = 0
) -> Calibration:
    """Fit scores to the accuracies of a few trained networks; the result stays a sum over blocks, so search stays exact.

    First the accuracies are regressed on one number, the prior: the standardised score and the standardised costs in equal
    parts; its slope is not below 0. What is left is explained by two groups of `Features`, the widths of layers and what
    belongs to blocks, by ridge regressions whose penalties are not chosen but averaged over: each pair of 5 penalties per group
    counts by its marginal likelihood (Hoeting et al., Bayesian model averaging, 1999). A penalty chosen by the errors of a
    few networks is a matter of luck. With few networks, or where the features explain nothing, the fit stays near the prior.

    accuracies: `[N]` of the networks, at least 5, larger is better; any unit. costs: `Costs` with `params`, `madds` and
    `log_width`; those that it lacks are left out. seed: of the folds.

    Raises:
        InputError: fewer than 5 networks, one that comes twice or is outside the space, a path without score, or accuracies
            that are not finite, not as many, or all equal.
    """
    features, anchor, target = _inputs(scores, costs, architectures, accuracies)
    matrix = features.of(architectures)
    prior = -anchor.total(architectures)
    spread, mean = target.std(), target.mean()
    scaled = (target - mean) / spread
    groups = _groups(features)
    fit = _fit(prior, matrix, groups, scaled)
    tables = _negated(features.weighted(fit.weights), anchor, fit.slope, spread)
    fitted = Scores(scores.space, tables, scores.metadata)
    # The intercept stands in the first block, so that the sum is minus the predicted accuracy.
    shift = -(mean + fitted.total(architectures).mean())
    first = [ScoreTable.of_paths(t.shape, t.rated()[0], t.rated()[1] + shift) for t in fitted[0]]
    fitted = Scores(scores.space, [first, *tables[1:]], {**scores.metadata, "calibrated": len(target)})
    weights = {"prior": fit.slope * spread, **dict(zip(features.names, (fit.weights * spread).tolist()))}
    left_out = _left_out(prior, matrix, groups, target, seed)
    explained = {"layers": float(fit.explained[0]), "blocks": float(fit.explained[1])}
    return Calibration(fitted, {k: float(v) for k, v in weights.items()}, explained, left_out, -prior)


def gaussian_process(
    scores: Scores,
    costs: Any,
    architectures: Sequence[Architecture],
    accuracies: Sequence[float],
    wanted: Sequence[Architecture],
) -> tuple[np.ndarray, np.ndarray]:
    """Predict accuracies `[M]` of networks by a Gaussian process, with standard deviations `[M]`.

    Its mean is the prior of `calibrate` with its slope; beyond, networks of near features (a radial kernel) have near accuracies.
    This is no sum over blocks: it can order a list of networks, and the order of a whole space needs the whole list.

    Raises:
        InputError: as `calibrate`.
    """
    features, anchor, target = _inputs(scores, costs, architectures, accuracies)
    spread, mean = target.std(), target.mean()
    scaled = (target - mean) / spread
    prior = -anchor.total(architectures)
    slope = _slope(prior, scaled)
    width = np.sqrt(len(features.names))
    kernel = ConstantKernel(0.5, (1e-3, 10)) * RBF(1.0, (0.1, 100)) + WhiteKernel(0.1, (1e-3, 2))
    model = GaussianProcessRegressor(kernel, random_state=0)
    centre = (scaled - slope * prior).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound that is reached is an answer
        model.fit(features.of(architectures) / width, scaled - slope * prior - centre)
    predicted, deviation = model.predict(features.of(wanted) / width, return_std=True)
    total = centre + predicted - slope * anchor.total(wanted)
    return mean + spread * total, spread * deviation


def _inputs(
    scores: Scores, costs: Any, architectures: Sequence[Architecture], accuracies: Sequence[float]
) -> tuple[Features, Scores, np.ndarray]:
    """Features, the prior as standardised scores, and the accuracies, all checked."""
    target = np.asarray(accuracies, np.float64)
    for architecture in architectures:
        scores.space.check(architecture)
    if len(architectures) < LEAST or target.shape != (len(architectures),) or not np.isfinite(target).all():
        raise InputError(f"[calibrate] expected at least {LEAST} networks with a finite accuracy each, got {len(architectures)} "
                         f"networks and {target.size} accuracies, {int(np.isfinite(target).sum())} of them finite")  # fmt: skip
    if len(set(architectures)) < len(architectures):
        again = next(a for i, a in enumerate(architectures) if a in architectures[:i])
        raise InputError(f"[calibrate] expected each network once, got {scores.space.format(again)} again")
    if np.ptp(target) == 0:
        raise InputError(f"[calibrate] expected accuracies that differ, got {target[0]:g} for each of {len(target)}")
    return Features.of_scores(scores, costs), prior_scores(scores, costs), target


def prior_scores(scores: Scores, costs: Any) -> Scores:
    """Return the prior of `calibrate`: standardised scores and standardised costs in equal parts, lower is better."""
    names = [name for name in (*COSTS, BY_LAYER) if name in costs.additive]
    return standardised(with_priors(scores, costs, dict.fromkeys(names, 1 / max(1, len(names)))))


def _slope(prior: np.ndarray, target: np.ndarray) -> float:
    centred = prior - prior.mean()
    return max(0.0, float(centred @ target / (centred @ centred))) if centred.any() else 0.0


def _groups(features: Features) -> np.ndarray:
    """Group of each feature, int `[F]`: 0 for the widths of layers, 1 for what belongs to a block."""
    return np.array([not name.startswith(BY_LAYER) for name in features.names], dtype=np.int64)


def _fit(prior: np.ndarray, features: np.ndarray, groups: np.ndarray, target: np.ndarray) -> _Fit:
    """Fit a target; features: `[N, F]`, groups: `[F]`. The scale of the target and its mean have no prior (REML)."""
    slope, n = _slope(prior, target), len(target)
    # Columns that are orthogonal to 1: the intercept is projected out.
    contrasts = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]
    rest = contrasts.T @ (target - slope * prior)
    sizes = np.maximum(1, np.bincount(groups, minlength=2))
    scaled = contrasts.T @ features / np.sqrt(sizes[groups])
    parts = [scaled[:, groups == group] for group in range(2)]
    shares = np.array(list(itertools.product(_SHARES, repeat=2)))
    covariances = np.eye(n - 1) + np.einsum("sg,gij->sij", shares, np.array([part @ part.T for part in parts]))
    solved = np.linalg.solve(covariances, np.broadcast_to(rest[:, None], (len(shares), n - 1, 1)))[..., 0]
    squares = np.maximum(solved @ rest, np.finfo(float).tiny)
    evidence = -np.linalg.slogdet(covariances)[1] / 2 - (n - 1) / 2 * np.log(squares)
    belief = np.exp(evidence - evidence.max())
    belief /= belief.sum()
    each = shares[:, groups] * (solved @ scaled) / np.sqrt(sizes[groups])
    return _Fit(slope, belief @ each, belief @ shares)


def _left_out(prior: np.ndarray, features: np.ndarray, groups: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
    """Predictions by fits to other networks, `[N]`, up to a constant."""
    total = np.zeros(len(target))
    folds = RepeatedKFold(n_splits=min(_FOLDS, len(target)), n_repeats=_REPEATS, random_state=seed)
    for rest, out in folds.split(features):
        spread = target[rest].std() or 1.0
        fit = _fit(prior[rest], features[rest], groups, (target[rest] - target[rest].mean()) / spread)
        # Without an intercept, which would be lower for the fits that lack the best networks.
        total[out] += spread * fit(prior[out], features[out]) / _REPEATS
    return total


def _negated(weighted: Scores, anchor: Scores, slope: float, spread: float) -> list[list[ScoreTable]]:
    """Tables of minus the prediction: slope times the prior, less the weighted features."""
    return [
        [
            ScoreTable.of_paths(t.shape, t.rated()[0], spread * (slope * a.at(t.rated()[0]) - t.rated()[1]))
            for t, a in zip(*block)
        ]
        for block in zip(weighted.tables, anchor.tables)
    ]
