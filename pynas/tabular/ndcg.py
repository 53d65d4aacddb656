"""Normalised discounted cumulative gain: are the networks ranked first among the best?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pynas.errors import InputError

# AceNAS's relevance: 0 up to this quantile of the accuracies, and this for the best.
_QUANTILE, _SCALE = 0.2, 20.0


def ndcg(scores: ArrayLike, accuracy: ArrayLike, k: int = 10, *, lower_is_better: bool = True) -> float:
    """Return nDCG@k = DCG@k / DCG@k of the true order, DCG@k = sum over places i = 1..k of (2^rel_i - 1) / log2(i + 1).

    The relevance is that of AceNAS (Zhang et al., 2021): rel = 20 clip((accuracy - q) / (best - q), 0, 1), with q the 20 %
    quantile of all accuracies. So a twentieth of the way from the best to q halves the gain. 1 is the true order at the
    top. Networks of equal score share their places: each has the mean gain of them all, the expectation over their orders.

    scores, accuracy: `[N]`. k: places that count; all where there are fewer. NaN where the gains are all equal.

    Raises:
        InputError: lengths that differ, values that are not finite, or k below 1.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(accuracy, np.float64)
    if values.ndim != 1 or values.shape != truth.shape or not len(values):
        raise InputError(
            f"[ndcg] expected as many scores as accuracies [N], got {list(values.shape)} and {list(truth.shape)}"
        )
    if not (np.isfinite(values).all() and np.isfinite(truth).all()):
        raise InputError("[ndcg] expected finite scores and accuracies, got NaN or infinity: leave the rows out")
    if k < 1:
        raise InputError(f"[ndcg] expected k of at least 1, got {k}")
    low, best = np.quantile(truth, _QUANTILE), truth.max()
    if low == best:
        return float("nan")
    gains = 2 ** (_SCALE * np.clip((truth - low) / (best - low), 0, 1)) - 1
    discounts = 1 / np.log2(np.arange(2, min(k, len(truth)) + 2))
    return _dcg(values if lower_is_better else -values, gains, discounts) / _dcg(-truth, gains, discounts)


def _dcg(loss: np.ndarray, gains: np.ndarray, discounts: np.ndarray) -> float:
    place = np.unique(loss, return_inverse=True)[1].reshape(-1)
    shared = np.bincount(place, gains) / np.bincount(place)
    return float(shared[np.sort(place)[: len(discounts)]] @ discounts)
