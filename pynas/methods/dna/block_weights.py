"""Block weights lambda_k (DNA, eq. 4) from a few trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from pynas.errors import InputError
from pynas.rating import Scores
from pynas.spaces import Architecture

# Strength of the pull towards equal weights of the blocks.
_PULL = 0.05


@dataclass(frozen=True)
class BlockWeights:
    """Weights of 0 or more with the mean 1, for `search.best(..., weights=...)`.

    tau: Kendall's tau of the weighted scores and the accuracies that the weights were fitted to. uniform_tau: of the plain
    sum of the scores. left_out_tau: of each network's pairs with the others, ordered by weights fitted without it; this
    estimates the tau for another network. All are positive where better scores go with higher accuracies.
    """

    weights: tuple[float, ...]
    tau: float
    left_out_tau: float
    uniform_tau: float


def fit_block_weights(
    scores: Scores, architectures: Sequence[Architecture], accuracies: Sequence[float]
) -> BlockWeights:
    """Choose lambda_k >= 0 so that sum_k lambda_k score_k orders trained networks as their accuracies do.

    Minimises, over all pairs (i better than j), the mean of log(1 + exp(-sum_k w_k (z_jk - z_ik))) + 0.05 |w - 1|^2 / K
    with z_k the scores of block k over their standard deviation s_k, then lambda_k = w_k / s_k, scaled to the mean 1.
    Convex, so the result does not depend on where it starts. A block whose scores are all equal gets the weight 0.

    architectures: at least 4, with the top-1 accuracy of each after training.

    Raises:
        InputError: tables without their space, fewer than 4 networks, accuracies that are all equal, an architecture outside
            the space, or a path without a score.
    """
    rows, accuracy = _block_scores(scores, architectures), np.asarray(accuracies, dtype=np.float64)
    if len(rows) < 4 or accuracy.shape != (len(rows),) or not np.isfinite(accuracy).all():
        raise InputError(
            f"[weights] expected at least 4 networks with an accuracy each, got {len(rows)} and {len(accuracy)}"
        )
    if len(np.unique(accuracy)) < 2:
        raise InputError(f"[weights] expected accuracies that differ, got {accuracy[0]} for each")
    weights = _fit(rows, accuracy)
    return BlockWeights(
        tuple(weights.tolist()),
        _tau(rows @ weights, accuracy),
        _left_out_tau(rows, accuracy),
        _tau(rows.sum(1), accuracy),
    )


def _block_scores(scores: Scores, architectures: Sequence[Architecture]) -> np.ndarray:
    """Score of every block of every architecture, `[N, blocks]`, all finite."""
    space = Scores.check("weights", scores).space
    for architecture in architectures:
        space.check(architecture)
    rows = scores.by_block(architectures)
    missing = np.argwhere(~np.isfinite(rows))
    if len(missing):
        row, block = missing[0]
        raise InputError(f"[weights] expected a score of every path, got {rows[row, block]} for block {block + 1} of "
                         f"{str(architectures[row])!r}")  # fmt: skip
    return rows


def _fit(scores: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    # By a power of two, so that squares of large and tiny scores neither overflow nor vanish.
    size = np.ldexp(1.0, np.frexp(np.abs(scores).max(0))[1] - 1)
    scores = scores / size
    spread = scores.std(0)
    useful = spread > 1e-12 * np.abs(scores).max(0)
    if not useful.any():
        return np.ones(scores.shape[1])
    scaled = scores[:, useful] / spread[useful]
    better, worse = np.nonzero(accuracy[:, None] > accuracy[None])
    gaps = scaled[worse] - scaled[better]  # [pairs, K]; positive where the score agrees

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = gaps @ weights
        value = np.logaddexp(0, -margins).mean() + _PULL * np.square(weights - 1).mean()
        slope = -gaps.T @ (1 / (1 + np.exp(margins))) / len(gaps) + 2 * _PULL * (weights - 1) / len(weights)
        return float(value), slope

    start = np.ones(scaled.shape[1])
    fitted = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x
    weights = np.zeros(scores.shape[1])
    weights[useful] = fitted / spread[useful] * (size[useful].min() / size[useful])
    return weights / weights.mean() if weights.any() else np.ones(len(weights))


def _left_out_tau(scores: np.ndarray, accuracy: np.ndarray) -> float:
    """Agreeing minus disagreeing pairs, as a share of the pairs whose accuracies differ, over all networks left out."""
    agreement = pairs = 0.0
    for i in range(len(scores)):
        rest = np.arange(len(scores)) != i
        if len(np.unique(accuracy[rest])) < 2:
            continue
        joined = scores @ _fit(scores[rest], accuracy[rest])
        signs = np.sign(joined[rest] - joined[i]) * np.sign(accuracy[i] - accuracy[rest])
        agreement, pairs = agreement + signs.sum(), pairs + np.count_nonzero(accuracy[rest] != accuracy[i])
    return float(agreement / pairs) if pairs else float("nan")


def _tau(scores: np.ndarray, accuracy: np.ndarray) -> float:
    """Kendall's tau; NaN where the scores are all equal."""
    return float(stats.kendalltau(-scores, accuracy).statistic) if len(np.unique(scores)) > 1 else float("nan")


def check_weights(weights: Sequence[float] | None, blocks: int) -> list[float]:
    """Return one weight per block, 1 each for None; raise InputError for another number or a negative weight."""
    checked = [1.0] * blocks if weights is None else list(weights)
    if len(checked) != blocks or not all(0 <= weight < float("inf") for weight in checked):
        raise InputError(f"[dna] expected {blocks} loss_weights of 0 or more, one per block, got {weights!r}")
    return checked
