"""Limits of a search: numbers, shares of the largest network or of the teacher, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import Any

from pynas.errors import InputError
from pynas.runs.quantities import cost, show_cost
from pynas.search.limits import keeps

_NONE = ("inf", "+inf", ".inf", "infinity", "none")
_SHARE = re.compile(
    r"\s*(\d+\.?\d*|\.\d+)\s*%\s*(?:of\s+(?:the\s+)?(teacher|largest(?:\s+network)?))?\s*", re.IGNORECASE
)


@dataclass(frozen=True)
class Share:
    """A limit as percents of a whole: of the space's greatest cost, or of the teacher's cost."""

    percent: Fraction
    of_teacher: bool = False

    @property
    def whole(self) -> str:
        """Name of the whole."""
        return "the teacher" if self.of_teacher else "the largest network"

    def of(self, whole: float) -> float:
        """Return the share of a whole, rounded once."""
        return float(self.percent * Fraction(whole) / 100)


def read_limit(name: str, value: Any) -> float | Share | None:
    """Read a limit on the cost `name`: a number, text such as `400M` or `12ms`, or a share; None where it is no limit.

    A share is `60%`, of the largest network of the space by that cost, or `60% of teacher`. None, `inf` and `none` are no
    limit.

    Raises:
        InputError: another form, nan, or a number below 0.
    """
    if isinstance(value, str):
        share = _SHARE.fullmatch(value)
        if share is not None:
            return Share(Fraction(share[1]), (share[2] or "").lower() == "teacher")
        if value.strip().lower() in _NONE:
            return None
        if "%" in value:
            raise InputError(f"[search] expected a share like 60% or '60% of teacher' for {name}, got {value!r}")
        return read_limit(name, cost(name, value))
    if value is None or isinstance(value, Share):
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) >= 0:
        raise InputError(f"[search] expected a limit on {name} of 0 or more, a share like '60%', or None for no limit, "
                         f"got {value!r}")  # fmt: skip
    return None if math.isinf(value) else float(value)


def read_limits(limits: Mapping[str, Any], lower: bool = False) -> dict[str, float | Share]:
    """Read limits by cost, and leave out those that are none.

    Raises:
        InputError: as `read_limit`, or a lower limit that is infinite.
    """
    read = {name: read_limit(name, value) for name, value in limits.items()}
    for name, value in limits.items():
        if lower and value is not None and read[name] is None:
            raise InputError(f"[search] expected a finite lower limit on {name}, got {value!r}")
    return {name: limit for name, limit in read.items() if limit is not None}


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
