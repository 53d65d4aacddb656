"""Isomers: paths of a cell with equal totals (heads, MLP features), hence of equal cost; the best of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pynas.errors import InputError


@dataclass(frozen=True)
class Groups:
    """Best path of every group of isomers: totals `[G, K]` int, scores `[G]`, paths `[G, L]`."""

    totals: np.ndarray
    scores: np.ndarray
    paths: np.ndarray


def exact(values: np.ndarray, units: np.ndarray) -> Groups:
    """Find the path with the highest sum of values in every group of paths with equal sums of units, by dynamic programming.

    values: `[L, C]`, contribution of candidate c in layer l to the score. units: `[C, K]` whole numbers, contribution of a
        candidate to each total (its heads, its MLP features).

    Only the best path to each total is kept after every layer, as no other path with that total can lead to a better one.
    Ties go to the earlier candidate.

    Raises:
        InputError: values that are not finite, or shapes that do not fit.
    """
    values, units = np.asarray(values, np.float64), np.asarray(units, np.int64)
    if values.ndim != 2 or units.ndim != 2 or values.shape[1] != len(units) or not len(values):
        raise InputError(f"[isomers] expected values [L, C] and units [C, K], got {values.shape} and {units.shape}")
    if not np.isfinite(values).all():
        raise InputError("[isomers] expected finite values, got NaN or infinity")
    keys, base = _keys(units, len(values))
    reached, best = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for layer in values:
        totals = (reached[:, None] + keys).ravel()
        scores = (best[:, None] + layer).ravel()
        # By total, then by falling score; equal scores stay in order.
        order = np.lexsort((-scores, totals))
        first = np.flatnonzero(np.diff(totals[order], prepend=-1))
        kept = order[first]
        reached, best = totals[kept], scores[kept]
        steps.append(np.divmod(kept, len(keys)))
    paths = np.empty((len(best), len(values)), np.int64)
    place = np.arange(len(best))
    for layer in range(len(values) - 1, -1, -1):
        before, candidate = steps[layer]
        paths[:, layer], place = candidate[place], before[place]
    return Groups(_totals(reached, base, units, len(values)), best, paths)


def _keys(units: np.ndarray, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Units of each candidate as one number, whose sums differ wherever sums of units differ, and the base of each unit."""
    spans = (units.max(0) - units.min(0)) * layers + 1
    base = np.append(np.cumprod(spans[::-1])[::-1][1:], 1)
    if np.log2(spans.astype(np.float64)).sum() > 62:
        raise InputError(f"[isomers] expected totals that fit one number of 64 bits, got spans of {spans.tolist()}")
    return (units - units.min(0)) @ base, base


def _totals(keys: np.ndarray, base: np.ndarray, units: np.ndarray, layers: int) -> np.ndarray:
    totals = np.empty((len(keys), len(base)), np.int64)
    for column, size in enumerate(base):
        totals[:, column], keys = np.divmod(keys, size)
    return totals + units.min(0) * layers


def greedy(gains: np.ndarray, left: int) -> np.ndarray:
    """Allocate `left` steps one by one, each to the layer whose next step gains most (PreNAS, algorithm 1).

    gains: `[L, S]`, gain of the (s+1)-th step above the least choice in layer l. Returns the steps per layer, `[L]`.
    Their sum of gains is the highest for S = 1, and for larger S where no layer's gains rise.

    Raises:
        InputError: more steps than there are, or gains that are not finite.
    """
    layers, most = gains.shape
    if not np.isfinite(gains).all():
        raise InputError("[isomers] expected finite gains, got NaN or infinity")
    if not 0 <= left <= layers * most:
        raise InputError(f"[isomers] expected between 0 and {layers * most} steps to allocate, got {left}")
    padded = np.pad(np.asarray(gains, np.float64), ((0, 0), (0, 1)), constant_values=-np.inf)
    taken = np.zeros(layers, np.int64)
    for _ in range(left):
        taken[padded[np.arange(layers), taken].argmax()] += 1
    return taken


def greedy_path(values: np.ndarray, steps: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Allocate heads and MLP ratios greedily and separately; returns the steps per layer of both, `[L]` each.

    values: `[L, heads, ratios]`, in each layer a sum of a term of the heads and a term of the ratios.
    steps: number of steps of heads and of ratios.
    """
    heads, ratios = np.diff(values[:, :, 0], axis=1), np.diff(values[:, 0], axis=1)
    return greedy(heads, steps[0]), greedy(ratios, steps[1])
