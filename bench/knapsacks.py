"""Multiple-choice knapsacks of the literature's five classes: take one item of each class, the most profit within the capacity.

As published by D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", European Journal of Operational
Research 83 (1995), and again in Kellerer, Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11; the fifth class is P.
Sinha and A. Zoltners', "The multiple-choice knapsack problem", Operations Research 27 (1979). Whole coefficients from 1 to R:

uncorrelated: weights and profits uniform in [1, R].
weakly correlated: weights uniform in [1, R], profits uniform in [w - 10, w + 10], 1 at least.
strongly correlated: weights w' uniform in [1, R], profits w' + 10, in order; each item is the sum of those up to it, so that no
    item is dominated and all lie on the upper convex hull.
subset sum: weights uniform in [1, R], profits equal to them.
sinha-zoltners: weights and profits uniform in [1, R], both in order, so that hardly an item is dominated.

The capacity is half of the sum of the least and the greatest weights of the classes. The random numbers are numpy's: the
published programs draw others.
"""

from __future__ import annotations

import numpy as np

KINDS = ("uncorrelated", "weakly correlated", "strongly correlated", "subset sum", "sinha-zoltners")


def generate(
    kind: str, classes: int, items: int, most: int, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Weights and profits int64 `[items]` of each class, and the capacity; `most` is R."""
    rng = np.random.default_rng([seed, KINDS.index(kind), classes, items, most])
    weight = rng.integers(1, most + 1, (classes, items))
    if kind == "uncorrelated":
        profit = rng.integers(1, most + 1, weight.shape)
    elif kind == "weakly correlated":
        profit = np.maximum(weight + rng.integers(-10, 11, weight.shape), 1)
    elif kind == "strongly correlated":
        weight = np.sort(weight, axis=1)
        weight, profit = np.cumsum(weight, axis=1), np.cumsum(weight + 10, axis=1)
    elif kind == "subset sum":
        profit = weight.copy()
    else:
        weight, profit = np.sort(weight, axis=1), np.sort(rng.integers(1, most + 1, weight.shape), axis=1)
    capacity = int(weight.min(1).sum() + weight.max(1).sum()) // 2
    return list(weight), list(profit), capacity
