"""Mean best rank (mBR): rank by accuracy of the network that a proxy picks from each group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from pynas.errors import InputError


def mean_best_rank(scores: ArrayLike, accuracy: ArrayLike, groups: ArrayLike, *, lower_is_better: bool = True) -> float:
    """Return mBR = sum_g (r_g - 1) / sum_g (|g| - 1) (PreNAS, appendix A): 0 if each pick is its group's best, 1 the worst.

    r_g is the rank by accuracy, from 1, of the network of group g with the best score. Networks of equal accuracy share the
    mean of their ranks, and networks of equal best score count by their mean, so that chance gives 0.5.

    scores, accuracy, groups: `[N]`, groups as from `cost_groups`.

    Raises:
        InputError: lengths that differ, values that are not finite, or no group with two networks.
    """
    score, truth, group = np.asarray(scores, np.float64), np.asarray(accuracy, np.float64), np.asarray(groups)
    if score.ndim != 1 or not score.shape == truth.shape == group.shape:
        raise InputError("[mean best rank] expected as many scores, accuracies and groups, "
                         f"got {list(score.shape)}, {list(truth.shape)} and {list(group.shape)}")  # fmt: skip
    if not (np.isfinite(score).all() and np.isfinite(truth).all()):
        raise InputError("[mean best rank] expected finite scores and accuracies, got NaN or infinity")
    labels, group = np.unique(group, return_inverse=True)
    if len(labels) == len(group):
        raise InputError(f"[mean best rank] expected a group with two networks, got {len(labels)} of one each")
    ranks = _ranks_within(group, truth)
    loss = score if lower_is_better else -score
    least = np.full(len(labels), np.inf)
    np.minimum.at(least, group, loss)
    picked = loss == least[group]
    total = np.bincount(group[picked], ranks[picked]) / np.bincount(group[picked])
    return float((total - 1).sum() / (len(group) - len(labels)))


def cost_groups(costs: Mapping[str, ArrayLike], tolerance: float = 0.0) -> np.ndarray:
    """Number the groups of networks of equal cost, as isomers have: int64 `[N]`, a group per network.

    tolerance: 0 groups networks equal in each of the costs; above, those that share an interval [c, (1 + tolerance) c).

    Raises:
        InputError: no costs, costs of different length, not above 0, or a negative tolerance.
    """
    values = [np.asarray(cost, np.float64) for cost in costs.values()]
    if not values or any(value.shape != values[0].shape or value.ndim != 1 for value in values):
        raise InputError(
            f"[cost groups] expected costs [N] of one length, got {[list(value.shape) for value in values]}"
        )
    if not all((value > 0).all() and np.isfinite(value).all() for value in values) or tolerance < 0:
        raise InputError(f"[cost groups] expected costs above 0 and a tolerance of at least 0, got {tolerance} and costs "
                         f"from {min(value.min(initial=np.inf) for value in values)}")  # fmt: skip
    if tolerance:
        values = [np.floor(np.log(value) / np.log1p(tolerance)) for value in values]
    return np.unique(np.stack(values, 1), axis=0, return_inverse=True)[1].reshape(-1)


def _ranks_within(group: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Rank of each network in its group, from 1 for the highest accuracy, the mean where accuracies are equal; `[N]`."""
    order = np.lexsort((-accuracy, group))
    sorted_group, sorted_accuracy = group[order], accuracy[order]
    place = np.arange(len(group)) - np.searchsorted(sorted_group, sorted_group) + 1.0
    new = np.diff(sorted_group, prepend=-1).astype(bool) | np.diff(sorted_accuracy, prepend=np.inf).astype(bool)
    tied = np.cumsum(new) - 1
    ranks = np.empty(len(group))
    ranks[order] = (np.bincount(tied, place) / np.bincount(tied))[tied]
    return ranks
