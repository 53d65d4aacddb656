"""PreNAS's selector (section 3.2) over a whole space: the best architectures of every cost interval by SNIP."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pynas.errors import InputError
from pynas.spaces import Space
from pynas.zero_cost.preferred import Preferred, PreferredSpace
from pynas.zero_cost.ranking import ranking


def select(
    space: Space,
    scores: Any,
    costs: Any,
    *,
    cost: str = "params",
    interval: float = 1e6,
    top: int = 1,
    normaliser: str | None = None,
    allocation: str | None = None,
    start: float | None = None,
    stop: float | None = None,
) -> PreferredSpace:
    """Select the `top` architectures of every interval [k, k + 1) * interval of a cost (eq. 8-10), ranked by SNIP (eq. 4).

    In AutoFormer's spaces, a group of isomers (equal dimension, depth, total heads, total MLP features) is represented by
    its path with the highest normalised score (eq. 13). In convolutional spaces every architecture is ranked (section
    4.5). The selection is exact: nothing is sampled.

    scores, costs: as `saliency` and `pynas.costs.count` return them.
    normaliser: scores among isomers, "layer" (the default), "balance" or "snip" (`Saliency`); None for convolutional spaces.
    allocation: "exact" (the default) or the paper's "greedy"; None for convolutional spaces.
    start, stop: only intervals that begin in [start, stop) are filled; None for all.

    Raises:
        InputError: an interval that holds no architecture, or an unknown cost, normaliser or allocation.
    """
    if not (interval > 0 and math.isfinite(interval)) or top < 1:
        raise InputError(f"[select] expected an interval above 0 and a top of at least 1, got {interval} and {top}")
    ranked = ranking(space, scores, costs, cost, normaliser, allocation)
    members = []
    for number in _intervals(ranked.range, interval, start, stop, cost):
        low, high = number * interval, (number + 1) * interval
        best = ranked.top(low, high, top)
        if not best:
            raise InputError(f"[select] expected an architecture in every interval of {cost}, got none in "
                             f"[{low:g}, {high:g}); take wider intervals than {interval:g}, or others than from "
                             f"{ranked.range[0]:g} to {ranked.range[1]:g}")  # fmt: skip
        members += [Preferred(a, (low, high), snip, normalised, costs.of(a)) for a, snip, normalised in best]
    members.sort(key=lambda member: member.costs[cost])
    return PreferredSpace(space, cost, interval, tuple(members), {**ranked.metadata, "top": top})


def _intervals(
    cost_range: tuple[float, float], interval: float, start: float | None, stop: float | None, cost: str
) -> Iterator[int]:
    """Numbers of the intervals to fill."""
    least, most = (_number(value, interval) for value in cost_range)
    first = least if start is None else math.ceil(start / interval)
    last = max(most, first) if stop is None else math.ceil(stop / interval) - 1
    if first > last:
        raise InputError(f"[select] expected intervals of {cost} between start and stop, got none of {interval:g} "
                         f"between {start} and {stop}")  # fmt: skip
    yield from range(first, last + 1)


def _number(value: float, interval: float) -> int:
    """Number of the interval that holds a value."""
    # The bounds of intervals are rounded products, which the quotient may miss by one.
    number = int(value // interval)
    return number + 1 if (number + 1) * interval <= value else number
