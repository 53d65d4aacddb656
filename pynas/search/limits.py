"""Limits by the names of costs, as the searches take them: numbers, texts such as 400M, shares of a whole, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from pynas.errors import InputError
from pynas.quantities import cost

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


def check_limits(
    name: str,
    limits: Mapping[str, Any] | None,
    known: Collection[str],
    whole: Callable[[str], float] | None = None,
) -> dict[str, float]:
    """Return the limits as numbers, without those that are None.

    name: the caller's, in front of the error message. known: names of the costs. whole: returns the cost that a share such as
        "60%" refers to; None where shares are not taken.

    Raises:
        InputError: a limit on an unknown cost, or one that is neither a number nor a text that `read_limit` reads.
    """
    read: dict[str, float] = {}
    for key, limit in (limits or {}).items():
        if key not in known:
            names = ", ".join(known) or "none, as no costs are given"
            raise InputError(f"[{name}] expected limits on {names}, got one on {key!r}")
        value = read_limit(key, limit) if isinstance(limit, str) else limit
        if isinstance(value, Share) and whole is not None and not value.of_teacher:
            value = value.of(whole(key))
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value)):
            raise InputError(f"[{name}] expected limits that are numbers, got {limit!r} for {key!r}")
        if value is not None:
            read[key] = float(value)
    return read


def keeps(costs: Mapping[str, float], limits: Mapping[str, float], at_least: Mapping[str, float]) -> bool:
    """Whether an architecture's costs keep all upper and lower limits."""
    return all(costs[name] <= limit for name, limit in limits.items()) and all(
        costs[name] >= limit for name, limit in at_least.items()
    )
