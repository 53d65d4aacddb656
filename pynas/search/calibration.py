"""Scores fitted to a few trained networks: a linear model of the rating's score, the costs and the widths of the layers."""

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
from pynas.rating.averaging import covariance, standardised
from pynas.search.features import BY_LAYER, Features
from pynas.search.prior import negative_cost
from pynas.spaces import Architecture

LEAST = 5
COSTS = ("params", "madds", BY_LAYER)
# Variance that a total, and that all layers together, may explain, over that of the noise.
_TOTAL, _LAYERS = (0.0, 3.0), (0.0, 0.03, 0.3, 3.0, 30.0)
# Models that take a better score, or more of a cost, for worse count e^-20 times as much.
_WRONG = 20.0
_FOLDS, _REPEATS = 5, 10


@dataclass(frozen=True)
class Calibration:
    """Scores whose sum over the blocks is minus the predicted accuracy, and how they were fitted.

    weights: in points of the accuracy, of the standardised totals (`score`, here larger is better; `params`, `madds`,
    `log_width`), and of the standardised logarithm of each layer's width. left_out: a prediction for every network `[N]` by fits
    to other networks, up to a constant: the mean over 10 repeats of 5-fold cross-validation.
    """

    scores: Scores
    weights: dict[str, float]
    left_out: np.ndarray


@dataclass(frozen=True)
class Terms:
    """Terms of the linear model: totals by name, as standardised scores (lower is better), and the widths of the layers."""

    totals: dict[str, Scores]
    layers: Features

    @classmethod
    def of_scores(cls, scores: Scores, costs: Any) -> Terms:
        """Build the terms from scores and from `params`, `madds` and `log_width`, those that the costs have and that vary."""
        parts = {name: negative_cost(scores, costs, name) for name in COSTS if name in costs.additive}
        varying = {name: part for name, part in parts.items() if covariance([part])[0, 0] > 0}
        totals = {name: standardised(part) for name, part in {"score": scores, **varying}.items()}
        return cls(totals, Features.of_scores(scores, costs))

    def of(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return the terms of networks, `[N, totals + layers]`, larger is better; widths are over sqrt(layers)."""
        totals = [-total.total(architectures) for total in self.totals.values()]
        widths = self.layers.of(architectures)
        return np.concatenate([np.stack(totals, axis=1), widths / np.sqrt(max(1, widths.shape[1]))], axis=1)

    def scores(self, weights: np.ndarray, intercept: float) -> Scores:
        """Return minus the weighted sum of the terms and the intercept, as scores; the intercept stands in the first block."""
        count = len(self.totals)
        widths = self.layers.weighted(weights[count:] / np.sqrt(max(1, len(self.layers.names))))
        tables: list[list[ScoreTable]] = []
        for b, cells in enumerate(widths.tables):
            tables.append([])
            for c, table in enumerate(cells):
                paths, values = table.rated()
                totals = [weight * total[b][c].at(paths) for weight, total in zip(weights, self.totals.values())]
                values = sum(totals) - values - (intercept if b == 0 else 0)
                tables[-1].append(ScoreTable.of_paths(table.shape, paths, values))
        return Scores(widths.space, tables)


def calibrate(
    scores: Scores, costs: Any, architectures: Sequence[Architecture], accuracies: Sequence[float], *, seed: int = 0
) -> Calibration:
    """Fit scores to the accuracies of a few trained networks; the result stays a sum over blocks, so search stays exact.

    The accuracy is a sum of the standardised score, the standardised costs, and the logarithm of each layer's width, with normal
    priors on the weights. A ridge penalty that is chosen by the errors of a few networks is a matter of luck, so it is averaged
    over: each total is in or out, and the layers explain 0 to 30 times as much as the noise; each of these 80 models counts by
    its marginal likelihood (Bayesian model averaging, Hoeting et al., 1999), where scale and mean of the accuracies are free.
    A model by which more of a cost is worse hardly counts. With few networks the fit is nearly a total; with more it learns
    which layers matter.

    accuracies: `[N]` of the networks, at least 5, larger is better; any unit. costs: `Costs` with `params`, `madds` and
    `log_width`; those that it lacks are left out. seed: of the folds.

    Raises:
        InputError: fewer than 5 networks, one that comes twice or is outside the space, a path without score, or accuracies
            that are not finite, not as many, or all equal.
    """
    target = _checked(scores, architectures, accuracies)
    terms = Terms.of_scores(scores, costs)
    rows, totals = terms.of(architectures), len(terms.totals)
    weights = fit(rows, totals, target)
    fitted = terms.scores(weights, float((target - rows @ weights).mean()))
    fitted = Scores(scores.space, fitted.tables, {**scores.metadata, "calibrated": len(target)})
    # As of the terms with a standard deviation of 1.
    scaled = np.concatenate([weights[:totals], weights[totals:] / np.sqrt(max(1, len(terms.layers.names)))])
    named = dict(zip([*terms.totals, *terms.layers.names], scaled.tolist()))
    return Calibration(fitted, named, _left_out(rows, totals, target, seed))


def fit(rows: np.ndarray, totals: int, target: np.ndarray) -> np.ndarray:
    """Return the weights `[F]` that the accuracies `[N]` are expected to have been made by; see `calibrate`.

    rows: `[N, F]`, of which the first `totals` columns are totals, the others one group.
    """
    n = len(target)
    # Rows that are orthogonal to 1: the mean is projected out.
    contrasts = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]
    rows, rest = contrasts.T @ rows, contrasts.T @ target
    if not rest.any():
        return np.zeros(rows.shape[1])
    models = np.array(list(itertools.product(*[_TOTAL] * totals, _LAYERS)))
    variances = np.repeat(models, [1] * totals + [rows.shape[1] - totals], axis=1)
    covariances = np.eye(n - 1) + np.einsum("mf,if,jf->mij", variances, rows, rows, optimize=True)
    solved = np.linalg.solve(covariances, np.broadcast_to(rest[:, None], (len(models), n - 1, 1)))[..., 0]
    evidence = -np.linalg.slogdet(covariances)[1] / 2 - (n - 1) / 2 * np.log(solved @ rest)
    weights = variances * (solved @ rows)
    evidence -= _WRONG * (weights[:, :totals] < 0).any(axis=1)
    belief = np.exp(evidence - evidence.max())
    return belief @ weights / belief.sum()


def gaussian_process(
    scores: Scores,
    costs: Any,
    architectures: Sequence[Architecture],
    accuracies: Sequence[float],
    wanted: Sequence[Architecture],
) -> tuple[np.ndarray, np.ndarray]:
    """Predict accuracies `[M]` of networks by a Gaussian process, with standard deviations `[M]`.

    Its mean is the fit of `calibrate`; beyond, networks of near terms (a radial kernel) have near accuracies. This is no sum over
    blocks: it can order a list of networks, but the order of a whole space needs the whole list.

    Raises:
        InputError: as `calibrate`.
    """
    target = _checked(scores, architectures, accuracies)
    terms = Terms.of_scores(scores, costs)
    rows, asked = terms.of(architectures), terms.of(wanted)
    weights = fit(rows, len(terms.totals), target)
    rest, mean = target - rows @ weights, (target - rows @ weights).mean()
    spread = (rest - mean).std() or 1.0
    kernel = ConstantKernel(0.5, (1e-3, 10)) * RBF(1.0, (0.1, 100)) + WhiteKernel(0.5, (1e-3, 2))
    model = GaussianProcessRegressor(kernel, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound that is reached is an answer
        model.fit(rows, (rest - mean) / spread)
    more, deviation = model.predict(asked, return_std=True)
    return asked @ weights + mean + spread * more, spread * deviation


def _checked(scores: Scores, architectures: Sequence[Architecture], accuracies: Sequence[float]) -> np.ndarray:
    """Return the accuracies, float64 `[N]`."""
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
    return target


def _left_out(rows: np.ndarray, totals: int, target: np.ndarray, seed: int) -> np.ndarray:
    """Predictions by fits to other networks `[N]`, up to a constant."""
    predicted = np.zeros(len(target))
    for rest, out in RepeatedKFold(n_splits=_FOLDS, n_repeats=_REPEATS, random_state=seed).split(rows):
        # Without an intercept, which would be lower for the fits that lack the best networks.
        predicted[out] += rows[out] @ fit(rows[rest], totals, target[rest]) / _REPEATS
    return predicted
