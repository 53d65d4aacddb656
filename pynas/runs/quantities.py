"""Numbers with suffixes, as people write them: 400M multiply-adds, 5.3M parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pynas.errors import InputError

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def quantity(text: str | float) -> float:
    """Read `400M`, `5.3M`, `1.5G`, `800k` or a plain number.

    Raises:
        InputError: not a non-negative number with an optional suffix k, M or G.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d+)?|\.\d+)\s*([kKmMgG]?)\s*", str(text))
    if match is None:
        raise InputError(f"[quantity] expected a number with an optional suffix k, M or G, got {text!r}")
    return float(match[1]) * _FACTORS[match[2].lower()]


def milliseconds(text: str) -> float:
    """Read `12ms`, `0.5s`, `800us`, or a plain number of ms.

    Raises:
        InputError: another form.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(us|ms|s|)\s*", text)
    if match is None:
        raise InputError(f"[quantity] expected a time like 12ms, 0.5s or 800us, got {text!r}")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "": 1.0, "s": 1e3}[match[2]]


def assignments(texts: Sequence[str] | None) -> dict[str, float]:
    """Read `NAME=VALUE` options.

    Raises:
        InputError: another form.
    """
    read = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(f"[quantity] expected NAME=VALUE, got {text!r}")
        read[name] = quantity(value)
    return read


def numbers(text: str | None) -> list[float] | None:
    """Read numbers separated by commas; None stays None.

    Raises:
        InputError: something else between the commas.
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"[quantity] expected numbers separated by commas, got {text!r}") from None


def show(value: float) -> str:
    """Three significant digits and a suffix: 18.4M."""
    for suffix in ("G", "M", "k"):
        factor = _FACTORS[suffix.lower()]
        if abs(value) >= factor:
            return f"{value / factor:#.4g}{suffix}"
    return f"{value:g}"
