"""Limits of a search: numbers, shares of the largest network or of the teacher, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pynas.quantities import show_cost
from pynas.search.limits import Share, keeps


@dataclass(frozen=True)
class Limits:
    """Upper and lower limits by cost, as numbers, both inclusive; none for a cost that is not named.

    shares: by "limits" and "at_least", then by cost, the `percent` of which `whole` (in words `of`) a limit was given as. A
    share of 100% or more of the largest network is no upper limit.
    """

    upper: Mapping[str, float] = field(default_factory=dict)
    lower: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def keep(self, costs: Mapping[str, float]) -> bool:
        """Whether an architecture's costs keep all limits."""
        return keeps(costs, self.upper, self.lower)


def resolve(
    upper: Mapping[str, float | Share], lower: Mapping[str, float | Share], whole: Callable[[str, Share], float]
) -> Limits:
    """Return the limits as numbers; whole: returns the whole of a share of a cost."""
    numbers: dict[str, dict[str, float]] = {"limits": {}, "at_least": {}}
    shares: dict[str, dict[str, Any]] = {"limits": {}, "at_least": {}}
    for side, limits in (("limits", upper), ("at_least", lower)):
        for name, limit in limits.items():
            if isinstance(limit, Share):
                total = whole(name, limit)
                shares[side][name] = {"percent": float(limit.percent), "of": limit.whole, "whole": total}
                if side == "limits" and limit.percent >= 100 and not limit.of_teacher:
                    continue
                limit = limit.of(total)
            numbers[side][name] = limit
    return Limits(numbers["limits"], numbers["at_least"], {side: by for side, by in shares.items() if by})


def describe(content: Mapping[str, Any]) -> str:
    """Return the limits of search.json in words, "no limits" where it has none."""
    words = []
    for side, sign in (("limits", "<="), ("at_least", ">=")):
        shares = content.get("shares", {}).get(side, {})
        for name, value in content[side].items():
            share = shares.get(name)
            note = ""
            if share is not None:
                note = f" ({share['percent']:g}% of {share['of']}'s {show_cost(name, share['whole'])})"
            words.append(f"{name} {sign} {show_cost(name, value)}{note}")
    return ", ".join(words) or "no limits"
