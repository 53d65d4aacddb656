"""Costs from the user's CSV file with a value per candidate, for example energy, or latency on another device."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pynas.costs.by_kind import check_tables
from pynas.costs.count import candidate_tables
from pynas.costs.table import Costs
from pynas.csv_files import CsvFile, Row, read_csv_file
from pynas.errors import InputError
from pynas.spaces import Space

_WHERE = ("block", "cell", "layer", "candidate")
# The place of the costs that every architecture has.
_FIXED = ("fixed", "", "", "")


def read_csv(path: str | Path, space: Space) -> Costs:
    """Cost tables from a CSV file with the columns block, cell, layer, candidate, and one column per cost.

    The file has a row per candidate; numbers count from 0. A row whose block is `fixed`, with cell, layer and candidate
    left empty, gives the cost of the parts that every architecture has; without such a row it is 0. A path costs the sum
    of its candidates. See `pynas.csv_files` for encodings, delimiters and forms of numbers.

    Raises:
        InputError: a file that cannot be read in one way only, missing columns, a candidate that has several rows, has none
            or is outside the space, or a value that is not a number of at least 0.
    """
    file = read_csv_file("costs", path, _WHERE)
    names = [column for column in file.columns if column not in _WHERE]
    if not names:
        raise InputError(f"[costs] expected the columns {', '.join(_WHERE)} and a cost in {path}, got no cost")
    columns = {name: file.numbers(name, least=0) for name in names}
    places, known = list(_places(space)), {_FIXED, *_places(space)}
    lines: dict[tuple[int, ...] | tuple[str, ...], int] = {}
    for number, row in enumerate(file.rows):
        place = _place(file, row)
        if place not in known or place in lines:
            got = "a second one" if place in lines else "one outside the space"
            raise file.refuse("one row per candidate", got, row)
        lines[place] = number
    check_tables(space)
    missing = next((place for place in places if place not in lines), None)
    if missing is not None:
        candidate = ", ".join(f"{name} {value}" for name, value in zip(_WHERE, missing))
        raise InputError(
            f"[costs] expected a row for every candidate of {space.name}, got none for {candidate} in {path}"
        )
    tables = {name: candidate_tables(space, lambda *place, name=name: columns[name][lines[place]]) for name in names}
    fixed = {name: columns[name][lines[_FIXED]] if _FIXED in lines else 0.0 for name in names}
    return Costs(tables, fixed, {"file": Path(path).name, "space": space.name}, space=space)


def _places(space: Space) -> Iterable[tuple[int, ...]]:
    for b, cells in enumerate(space.blocks):
        for c, cell in enumerate(cells):
            for layer, count in enumerate(cell.counts):
                for candidate in range(count):
                    yield b, c, layer, candidate


def _place(file: CsvFile, row: Row) -> tuple[int, ...] | tuple[str, ...]:
    texts = tuple(row[name] for name in _WHERE)
    if texts == _FIXED:
        return texts
    # Programs write 1.0 for whole numbers in a column where the fixed row leaves a gap.
    numbers = [re.fullmatch(r"([0-9]+)([.,]0*)?", text) for text in texts]
    if not all(numbers):
        raise file.refuse(
            f"whole numbers for {', '.join(_WHERE)} (or 'fixed' and three empty cells)", ", ".join(texts), row
        )
    return tuple(int(number[1]) for number in numbers if number is not None)
