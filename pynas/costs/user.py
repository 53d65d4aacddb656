"""Costs from the user's CSV file with a value per candidate, for example energy, or latency on another device."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pynas.costs.count import candidate_tables
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Space

_WHERE = ("block", "cell", "layer", "candidate")


def read_csv(path: str | Path, space: Space) -> Costs:
    """Cost tables from a CSV file with the columns block, cell, layer, candidate, and one column per cost.

    The file has a row per candidate; numbers count from 0. A row whose block is `fixed`, with cell, layer and candidate
    left empty, gives the cost of the parts that every architecture has; without such a row it is 0. A path costs the sum
    of its candidates.

    Raises:
        InputError: missing columns, a candidate that has several rows, has none or is outside the space, or a value that
            is not a number of at least 0.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"[costs] expected a CSV file, got {path}: {error}") from None
    names = [column for column in columns if column not in _WHERE]
    if any(column not in columns for column in _WHERE) or not names:
        raise InputError(
            f"[costs] expected the columns {', '.join(_WHERE)} and a cost in {path}, got {', '.join(columns)}"
        )
    values: dict[tuple[int, ...], dict[str, float]] = {}
    fixed = dict.fromkeys(names, 0.0)
    places = set(_places(space))
    for number, row in enumerate(rows, 2):
        costs = {name: _value(row[name], name, path, number) for name in names}
        if row["block"] == "fixed":
            fixed = costs
            continue
        place = _place(row, path, number)
        if place not in places or place in values:
            why = "a second one" if place in values else "one outside the space"
            raise InputError(f"[costs] expected one row per candidate, got {why} in line {number} of {path}")
        values[place] = costs
    missing = next((place for place in _places(space) if place not in values), None)
    if missing is not None:
        candidate = ", ".join(f"{name} {value}" for name, value in zip(_WHERE, missing))
        raise InputError(
            f"[costs] expected a row for every candidate of {space.name}, got none for {candidate} in {path}"
        )
    tables = {name: candidate_tables(space, lambda *place, name=name: values[place][name]) for name in names}
    return Costs(tables, fixed, {"file": Path(path).name, "space": space.name})


def _places(space: Space) -> Iterable[tuple[int, ...]]:
    for b, cells in enumerate(space.blocks):
        for c, cell in enumerate(cells):
            for layer, count in enumerate(cell.counts):
                for candidate in range(count):
                    yield b, c, layer, candidate


def _place(row: dict, path: str | Path, line: int) -> tuple[int, ...]:
    try:
        return tuple(int(row[name]) for name in _WHERE)
    except (TypeError, ValueError):
        raise InputError(
            f"[costs] expected whole numbers for {', '.join(_WHERE)}, got others in line {line} of {path}"
        ) from None


def _value(text: str | None, name: str, path: str | Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise InputError(f"[costs] expected a number of at least 0 for {name!r}, got {text!r} in line {line} of {path}")
    return value
