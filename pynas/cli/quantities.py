"""Numbers with suffixes, as people write them: 400M multiply-adds, 5.3M parameters."""

from __future__ import annotations

import re

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


def show(value: float) -> str:
    """Three significant digits and a suffix: 18.4M."""
    for suffix in ("G", "M", "k"):
        factor = _FACTORS[suffix.lower()]
        if abs(value) >= factor:
            return f"{value / factor:#.4g}{suffix}"
    return f"{value:g}"
