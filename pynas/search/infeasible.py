"""Message for limits that no choice keeps: the reachable costs, and the smallest set of limits that clash."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pynas.search.grid import Column
from pynas.search.problem import Limit, Problem


def explain(problem: Problem) -> str:
    """Return one line with the least (or most) that can be reached for every limit alone, and the limits that clash."""
    reach = []
    for column, limit in zip(problem.columns, problem.limits):
        if limit.upper is not None and limit.upper != math.inf:
            least = _extreme(problem, column, 1)
            reach.append(f"{limit.name} <= {limit.upper:g}: the least that can be reached is {least}")
        if limit.lower is not None:
            most = _extreme(problem, column, -1)
            reach.append(f"{limit.name} >= {limit.lower:g}: the most that can be reached is {most}")
        if limit.upper is not None and limit.lower is not None:
            reach += _neighbours(problem, column, limit)
    clash = " and ".join(limit.name for limit in _clash(problem))
    return f"[{problem.name}] no choice keeps the limits ({'; '.join(reach)}); what cannot be kept: {clash}"


def _extreme(problem: Problem, column: Column, sign: int, limit: Limit | None = None) -> float | None:
    """Least (sign 1) or greatest (-1) total of a cost, under a limit on it alone; None where no choice keeps that."""
    alone = replace(problem, columns=[column], limits=[limit or Limit("")])
    costs, most, _ = alone.criteria()
    rows, _, _ = problem.solve(sign * column.whole, costs, most, 1)
    return column.total(rows[0]).item() if len(rows) else None


def _neighbours(problem: Problem, column: Column, limit: Limit) -> list[str]:
    """Say which totals are nearest below and above a range that no choice meets; nothing where one does, or one is missing."""
    below = _extreme(problem, column, -1, Limit(limit.name, upper=limit.upper))
    above = _extreme(problem, column, 1, Limit(limit.name, lower=limit.lower))
    assert limit.lower is not None
    if below is None or above is None or below >= limit.lower:
        return []
    return [f"between these no {limit.name} can be reached, the nearest that can be reached are {below} and {above}"]


def _clash(problem: Problem) -> Sequence[Limit]:
    nothing = np.zeros_like(problem.losses)
    for size in range(1, len(problem.limits)):
        for subset in itertools.combinations(problem.limits, size):
            costs, most, _ = problem.criteria(subset)
            if len(problem.solve(nothing, costs, most, 1)[0]) == 0:
                return subset
    return problem.limits
