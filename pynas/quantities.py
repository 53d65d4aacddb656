"""Numbers with suffixes, as people write them: 400M multiply-adds, 5.3M parameters, 12ms."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pynas.errors import InputError

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "": 1.0, "s": 1e3}


def quantity(text: str | float) -> float:
    """Read `400M`, `5.3M`, `1.5G`, `800k`, `5e-05` or a plain number.

    Raises:
        InputError: not a non-negative number with an optional suffix k, M or G.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([kKmMgG]?)\s*", str(text))
    if match is None:
        raise InputError(f"[quantity] expected a number with an optional suffix k, M or G, got {text!r}")
    return float(match[1]) * _FACTORS[match[2].lower()]


def milliseconds(text: str | float) -> float:
    """Read `12ms`, `0.5s`, `800us`, or a plain number of ms.

    Raises:
        InputError: another form.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(us|ms|s|)\s*", str(text))
    if match is None:
        raise InputError(f"[quantity] expected a time like 12ms, 0.5s or 800us, got {text!r}")
    return float(match[1]) * _MILLISECONDS[match[2]]


def is_time(name: str) -> bool:
    """Whether a cost is a time in ms: the latency, also that of a workload, `latency@phone`."""
    return name.partition("@")[0] == "latency"


def cost(name: str, text: str | float) -> float:
    """Read a cost by its name: a time where it is a latency, else a quantity.

    Raises:
        InputError: another form.
    """
    return milliseconds(text) if is_time(name) else quantity(text)


def form(name: str) -> str:
    """Describe the form of a cost that `cost` reads."""
    return "a time like 12ms, 0.5s or 800us" if is_time(name) else "a number with an optional suffix k, M or G"


def assignments(texts: Sequence[str] | None) -> dict[str, str]:
    """Split `NAME=VALUE` texts.

    Raises:
        InputError: another form, or a name that stands twice.
    """
    values: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not name or not equals:
            raise InputError(f"[quantity] expected NAME=VALUE, got {text!r}")
        if name in values:
            raise InputError(f"[quantity] expected one value for {name}, got {values[name]!r} and {value!r}")
        values[name] = value
    return values


def numbers(text: str | None) -> list[float] | None:
    """Read numbers separated by commas; None stays None.

    Raises:
        InputError: something else between the commas.
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"[quantity] expected numbers separated by commas, got {text!r}") from None


def from_environment(name: str, default: str | None = None) -> int:
    """Return the whole number, 0 or more, in an environment variable.

    Raises:
        InputError: the variable holds no such number, or is not set and has no default.
    """
    text = os.environ.get(name, default)
    if text is None or not text.isdecimal():
        raise InputError(
            f"[processes] expected a whole number in the environment's {name}, got {text!r}; start with torchrun, or set it"
        )
    return int(text)


def show(value: float) -> str:
    """Write a number with two decimals and an SI prefix from a thousand on: 18.41M."""
    from matplotlib.ticker import EngFormatter

    return f"{value:g}" if abs(value) < 1000 else EngFormatter(places=2, sep="")(value)


def show_cost(name: str, value: float) -> str:
    """Write a cost with its prefix, a latency in ms."""
    return f"{value:.3f} ms" if is_time(name) else show(value)
