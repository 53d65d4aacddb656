"""Prices of limits: the score that a search gains or loses where a limit moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pynas.costs.table import Costs
from pynas.errors import InfeasibleError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.best import found_by
from pynas.search.pools import Entry, Pools, WholeCosts
from pynas.search.problem import Limit, Problem
from pynas.search.rules import Allowed
from pynas.search.traverse import run

# Factors by which each limit moves.
FACTORS = (0.95, 1.05)


@dataclass(frozen=True)
class Price:
    """Price of one limit: best scores of exact searches with all other limits as they are.

    side: "limits" for an upper limit, "at_least" for a lower one. score: of the best within all limits. moved: (limit, score) where
    the limit is 0.95 and 1.05 times as large, None where no architecture keeps it. free: score without this limit.
    multiplier: of the search's Lagrangian bound, 0 or more: the bound falls by so much per unit by which an upper limit rises, or
    a lower one falls; of a product of scores, by so much in the logarithm. It is a slope of the bound, not of the scores.
    """

    cost: str
    side: str
    limit: float
    score: float
    moved: tuple[tuple[float, float | None], ...]
    free: float
    multiplier: float

    @property
    def binding(self) -> bool:
        """Whether a better architecture breaks this limit alone."""
        return self.free < self.score


def prices(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    limits: Mapping[str, Any] | None = None,
    *,
    at_least: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    allowed: Allowed | None = None,
    device: str | None = None,
) -> list[Price]:
    """Return the price of every limit that some architecture of the space breaks; three exact searches for each.

    Arguments, and what is raised: as in `best`.
    """
    pools = Pools("prices", scores, costs, allowed)
    problem = pools.problem(limits, at_least, weights, join, device)

    def best(problem: Problem) -> Entry | None:
        try:
            return found_by(pools, run(problem, 1), join)[0]
        except InfeasibleError:
            return None

    traversal = run(problem, 1)
    score = found_by(pools, traversal, join)[0].score
    _, _, owners = problem.criteria()
    priced = []
    for at, side in sorted(owners):
        limit = problem.limits[at]
        value = limit.lower if side else limit.upper
        assert value is not None
        moved = [(factor * value, best(_moved(problem, at, side, factor * value))) for factor in FACTORS]
        free = best(_moved(problem, at, side, None))
        assert free is not None  # whatever keeps all limits
        priced.append(Price(
            limit.name, ("limits", "at_least")[side], value, score,
            tuple((to, None if entry is None else entry.score) for to, entry in moved),
            free.score, traversal.certificate.multipliers[at][side],
        ))  # fmt: skip
    return priced


def _moved(problem: Problem, at: int, side: int, value: float | None) -> Problem:
    """Return the problem with the upper (side 0) or lower limit (side 1) of a cost moved to a value, None for none."""
    limit = problem.limits[at]
    new = Limit(limit.name, limit.upper, value) if side else Limit(limit.name, value, limit.lower)
    return replace(problem, limits=[*problem.limits[:at], new, *problem.limits[at + 1 :]])
