"""Limits by the names of costs, as the searches take them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from numbers import Real

from pynas.errors import InputError


def check_limits(name: str, limits: Mapping[str, float | None] | None, known: Collection[str]) -> dict[str, float]:
    """Return the limits without those that are None, which are none.

    name: the caller's, in front of the error message. known: names of the costs.

    Raises:
        InputError: a limit on an unknown cost, or one that is no number.
    """
    for cost, limit in (limits or {}).items():
        if cost not in known:
            names = ", ".join(known) or "none, as no costs are given"
            raise InputError(f"[{name}] expected limits on {names}, got one on {cost!r}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Real) or math.isnan(limit)):
            raise InputError(f"[{name}] expected limits that are numbers, got {limit!r} for {cost!r}")
    return {cost: float(limit) for cost, limit in (limits or {}).items() if limit is not None}


def keeps(costs: Mapping[str, float], limits: Mapping[str, float], at_least: Mapping[str, float]) -> bool:
    """Whether an architecture's costs keep all upper and lower limits."""
    return all(costs[name] <= limit for name, limit in limits.items()) and all(
        costs[name] >= limit for name, limit in at_least.items()
    )
