"""Regret under budgets: accuracy of the network that scores find within a limit, against what else is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pynas.errors import InputError

# Below so many networks, means over budgets tell predictors hardly apart.
_FEW = 20


@dataclass(frozen=True)
class Budgets:
    """Limits `[B]` of one cost, inclusive, and the accuracies of the networks within each, `[B]` in percent.

    cost: name of the cost. counts: number of networks within. best: highest accuracy. random: mean of all, which is the
    expectation of a random choice. largest: accuracy of the network of the highest cost, the mean where several share it.
    """

    cost: str
    limits: tuple[float, ...]
    counts: tuple[int, ...]
    best: tuple[float, ...]
    random: tuple[float, ...]
    largest: tuple[float, ...]

    @property
    def caution(self) -> str | None:
        """A sentence where the networks are too few for the means to say much, else None."""
        if self.counts[-1] >= _FEW:
            return None
        alone = sum(count < 3 for count in self.counts)
        return (f"Only {self.counts[-1]} networks, and fewer than 3 of them within {alone} of the {len(self.limits)} "
                "budgets: too few to tell predictors apart.")  # fmt: skip


@dataclass(frozen=True)
class Regret:
    """Accuracy of the network that scores rank first within each budget, and its mean difference to others.

    found: accuracies `[B]` in percent, the mean of those that share the first place. accuracy: mean of `found`.
    minus_best, minus_random, minus_largest: mean over the budgets of `found` minus that field of `Budgets`, in points of
        accuracy; larger is better. The first is never above 0, scores of chance have 0 in the second, and of a ranking by
        the cost itself, larger first, the last is 0.
    """

    found: tuple[float, ...]
    accuracy: float
    minus_best: float
    minus_random: float
    minus_largest: float


def cost_budgets(accuracy: ArrayLike, costs: ArrayLike, count: int = 10, cost: str = "madds") -> Budgets:
    """Space budgets evenly from the least to the largest cost, both included.

    accuracy, costs: `[N]`, of networks. count: number of budgets. cost: name of the cost, for tables.

    Raises:
        InputError: fewer than two budgets, no networks, lengths that differ, or values that are not finite.
    """
    if count < 2:
        raise InputError(f"[budgets] expected at least two, the least and the largest cost, got {count}")
    truth, spent = _numbers(accuracy=accuracy, costs=costs)
    limits = np.linspace(spent.min(), spent.max(), count)
    within = [spent <= limit for limit in limits]
    return Budgets(
        cost,
        tuple(limits.tolist()),
        tuple(int(rows.sum()) for rows in within),
        _percent([truth[rows].max() for rows in within]),
        _percent([truth[rows].mean() for rows in within]),
        _percent([_first(spent[rows], truth[rows]) for rows in within]),
    )


def regret(
    scores: ArrayLike, accuracy: ArrayLike, costs: ArrayLike, budgets: Budgets, *, lower_is_better: bool = True
) -> Regret:
    """Find the best-scored network within each budget, and compare its accuracy with those of the budget.

    scores, accuracy, costs: `[N]`, of the networks that the budgets are of.

    Raises:
        InputError: lengths that differ, or values that are not finite.
    """
    values, truth, spent = _numbers(scores=scores, accuracy=accuracy, costs=costs)
    ranked = -values if lower_is_better else values
    within = [spent <= limit for limit in budgets.limits]
    found = _percent([_first(ranked[rows], truth[rows]) for rows in within])
    others = np.array([[0.0] * len(found), budgets.best, budgets.random, budgets.largest])
    return Regret(found, *_percent((np.array(found) - others).mean(axis=1)))


def _first(ranked: np.ndarray, accuracy: np.ndarray) -> float:
    """Mean accuracy of the rows that share the largest value."""
    return float(accuracy[ranked == ranked.max()].mean())


def _percent(values: ArrayLike) -> tuple[float, ...]:
    """Round off the digits that float32 adds."""
    return tuple((np.round(np.asarray(values, np.float64), 4) + 0.0).tolist())  # + 0.0: no -0.0


def _numbers(**columns: ArrayLike) -> list[np.ndarray]:
    values = [np.asarray(column, np.float64) for column in columns.values()]
    names = ", ".join(columns)
    if any(value.shape != values[0].shape or value.ndim != 1 or not len(value) for value in values):
        raise InputError(f"[budgets] expected {names} [N] of one length, at least 1, "
                         f"got {[list(value.shape) for value in values]}")  # fmt: skip
    for name, value in zip(columns, values):
        if not np.isfinite(value).all():
            raise InputError(
                f"[budgets] expected finite {name}, got {value[~np.isfinite(value)][0]}: leave the rows out"
            )
    return values
