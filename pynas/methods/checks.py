"""Checks of a method's options."""

from __future__ import annotations

from collections.abc import Sequence

from pynas.errors import InputError


def check_at_least(method: str, least: int, **values: int) -> None:
    """Raise InputError where an option is below its least value."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"[{method}] expected {name} of at least {least}, got {value}")


def check_one_of(method: str, name: str, value: str | None, known: Sequence[str | None]) -> None:
    """Raise InputError where an option has none of the values it may have."""
    if value not in known:
        raise InputError(f"[{method}] expected {name} to be one of {', '.join(map(str, known))}, got {value!r}")
