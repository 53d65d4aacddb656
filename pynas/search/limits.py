"""Limits by the names of costs: numbers, texts such as 400M, shares of a whole, ranges, values with a tolerance, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from pynas.errors import InputError
from pynas.quantities import cost, form

_NONE = ("inf", "+inf", ".inf", "infinity", "none")
_SHARE = re.compile(
    r"\s*(\d+\.?\d*|\.\d+)\s*%\s*(?:of\s+(?:the\s+)?(teacher|largest(?:\s+network)?))?\s*", re.IGNORECASE
)
_TOLERANCE = re.compile(r"(.*?)(?:±|\+/?-)\s*([^%]*)(%?)\s*")


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

    def times(self, factor: Fraction) -> Share:
        """Return a share so many times as large."""
        return Share(self.percent * factor, self.of_teacher)


# An upper or a lower limit; None where there is none.
End = float | Share | None


def read_limit(name: str, value: Any, where: str = "search") -> End:
    """Read a limit from one side on the cost `name`: a number, text such as `400M` or `12ms`, or a share; None for no limit.

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
        try:
            return read_limit(name, cost(name, value), where)
        except InputError:
            raise _refusal(name, value, where) from None
    if value is None or isinstance(value, Share):
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) >= 0:
        raise _refusal(name, value, where)
    return None if math.isinf(value) else float(value)


def read_range(name: str, value: Any, where: str = "search") -> tuple[End, End]:
    """Read a limit on the cost `name`; return its lower and its upper end, both inclusive, None for an open one.

    Beside what `read_limit` reads, which is an upper limit: a range, `3M..4M` or a pair `(3e6, 4e6)`, of which one end may be
    missing; a value to be met exactly, `==3M`; and one within a tolerance, `3M+-5%`, `3M±5%` or `5ms+-0.2ms`. A tolerance in
    percent is one of the value.

    Raises:
        InputError: another form, or a range whose lower end is above its upper one.
    """
    ends: tuple[End, End]
    given = value
    if isinstance(value, str) and ".." in value:
        value = tuple(end if end.strip() else None for end in value.split("..", 1))
    if isinstance(value, (tuple, list)) and len(value) == 2:
        ends = read_limit(name, value[0], where), read_limit(name, value[1], where)
    elif isinstance(value, str) and value.lstrip().startswith("="):
        both = read_limit(name, re.sub(r"^\s*==?", "", value), where)
        ends = both, both
    elif isinstance(value, str) and (match := _TOLERANCE.fullmatch(value)):
        ends = _around(name, value, match, where)
    else:
        return None, read_limit(name, value, where)
    if ends == (None, None) or _reversed(*ends):
        raise _refusal(name, given, where)
    return ends


def _reversed(low: End, high: End) -> bool:
    """Whether a lower end is above the upper one, as far as the two compare."""
    if isinstance(low, Share) and isinstance(high, Share):
        return low.of_teacher == high.of_teacher and low.percent > high.percent
    return isinstance(low, float) and isinstance(high, float) and low > high


def _around(name: str, value: str, match: re.Match[str], where: str) -> tuple[End, End]:
    """Return the ends of a value with a tolerance."""
    middle, tolerance = read_limit(name, match[1], where), read_limit(name, match[2] + match[3], where)
    if isinstance(tolerance, Share) and not tolerance.of_teacher and tolerance.percent <= 100 and middle is not None:
        less, more = 1 - tolerance.percent / 100, 1 + tolerance.percent / 100
        if isinstance(middle, Share):
            return middle.times(less), middle.times(more)
        return float(Fraction(middle) * less), float(Fraction(middle) * more)
    if not isinstance(middle, float) or not isinstance(tolerance, float):
        raise _refusal(name, value, where)
    return max(0.0, middle - tolerance), middle + tolerance


def _refusal(name: str, value: Any, where: str) -> InputError:
    return InputError(
        f"[{where}] expected a limit on {name} of 0 or more, which is {form(name)}, a share ('60%', '60% of teacher'), a range "
        f"('A..B'), a value met exactly ('==A') or within a tolerance ('A+-5%'), or None, got {value!r}"
    )


Bounds = dict[str, float | Share]


def read_bounds(
    limits: Mapping[str, Any] | None, at_least: Mapping[str, Any] | None = None, where: str = "search"
) -> tuple[Bounds, Bounds]:
    """Read limits by cost, and return the upper and the lower ones; those that are none are left out.

    limits: as `read_range` reads them. at_least: lower limits, as `read_limit` reads them.

    Raises:
        InputError: as these, a lower limit that is infinite, or two lower limits on one cost.
    """
    upper: Bounds = {}
    lower: Bounds = {}
    for name, value in (limits or {}).items():
        for side, end in zip((lower, upper), read_range(name, value, where)):
            if end is not None:
                side[name] = end
    for name, value in (at_least or {}).items():
        end = read_limit(name, value, where)
        if end is None and value is not None:
            raise InputError(f"[{where}] expected a finite lower limit on {name}, got {value!r}")
        if end is not None and name in lower:
            raise InputError(
                f"[{where}] expected one lower limit on {name}, got {(limits or {})[name]!r} and {value!r}"
            )
        if end is not None:
            lower[name] = end
    return upper, lower


def check_limits(
    name: str,
    limits: Mapping[str, Any] | None,
    at_least: Mapping[str, Any] | None,
    known: Collection[str],
    whole: Callable[[str], float] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return upper and lower limits as numbers, without those that are None.

    name: the caller's, in front of the error message. limits, at_least: as of `read_bounds`. known: names of the costs.
        whole: returns the cost that a share such as "60%" refers to; None where shares are not taken.

    Raises:
        InputError: a limit on an unknown cost, a share that is not taken, or as `read_bounds`.
    """
    for key in (*(limits or {}), *(at_least or {})):
        if key not in known:
            names = ", ".join(known) or "none, as no costs are given"
            raise InputError(f"[{name}] expected limits on {names}, got one on {key!r}")

    def number(key: str, end: float | Share) -> float:
        if not isinstance(end, Share):
            return end
        if whole is None or end.of_teacher:
            raise InputError(f"[{name}] expected limits that are numbers, got a share of {end.whole} for {key!r}")
        return end.of(whole(key))

    upper, lower = read_bounds(limits, at_least, name)
    return {key: number(key, end) for key, end in upper.items()}, {key: number(key, end) for key, end in lower.items()}


def keeps(costs: Mapping[str, float], limits: Mapping[str, float], at_least: Mapping[str, float]) -> bool:
    """Whether an architecture's costs keep all upper and lower limits."""
    return all(costs[name] <= limit for name, limit in limits.items()) and all(
        costs[name] >= limit for name, limit in at_least.items()
    )
