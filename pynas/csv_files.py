"""Read CSV files as spreadsheets and programs write them: right, or refused with the file, the line and the rule.

UTF-8, or UTF-16 with a byte order mark; commas, semicolons or tabs between cells; any line ends; quotes; a decimal point, or
a decimal comma where no comma separates the cells. Thousands separators are refused.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pynas.errors import InputError

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# UTF-32 before UTF-16, with whose mark its own begins.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# 1.234 or 1,234: a fraction of three digits, or a whole number as spreadsheets show it in many countries.
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}([.,][0-9]{3})+")
# Delimiters with the decimal mark that goes with them, so that three digits behind it are no thousands.
_TELLING = {(",", "."), (";", ",")}


@dataclass(frozen=True)
class Row:
    """A row: its cells by column, without spaces around them, and the line in which it begins, counted from 1."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


@dataclass(frozen=True)
class CsvFile:
    """Content of a CSV file. where: names the reader in messages. delimiter: between the cells."""

    where: str
    path: Path
    delimiter: str
    columns: list[str]
    rows: list[Row]

    def refuse(self, rule: str, got: str, row: Row, advice: str = "") -> InputError:
        """Return the error that a row breaks a rule."""
        return InputError(f"[{self.where}] expected {rule}, got {got} in line {row.line} of {self.path}{advice}")

    def numbers(self, column: str, least: float = -math.inf) -> list[float]:
        """Return a column's numbers, one per row, each finite and at least `least`.

        Raises:
            InputError: naming the line of another text, or of a number that can be read in two ways.
        """
        texts = [row[column] for row in self.rows]
        comma = self.delimiter != "," and any("," in text for text in texts)
        mark, other = (",", ".") if comma else (".", ",")
        marked = [text for text in texts if mark in text]
        doubtful = (self.delimiter, mark) not in _TELLING and all(map(_GROUPED.fullmatch, marked))
        bound = "" if least == -math.inf else f" of at least {least:g}"
        numbers = []
        for row, text in zip(self.rows, texts):
            if marked and (other in text or (doubtful and mark in text)):
                raise self.refuse(f"a number without thousands separators as {column}", repr(text), row,
                                  "; separate cells by commas and write a point before decimals")  # fmt: skip
            pointed = text.replace(",", ".") if comma else text
            value = float(pointed) if _NUMBER.fullmatch(pointed) else math.nan
            if not math.isfinite(value) or value < least:
                advice = "; write a point before decimals" if "," in text else ""
                raise self.refuse(f"a finite number{bound} as {column}", repr(text), row, advice)
            numbers.append(value)
        return numbers


def read_csv_file(where: str, path: str | Path, needed: Collection[str]) -> CsvFile:
    """Read a CSV file whose header has at least the `needed` columns, two or more; empty rows are left out.

    where: names the reader in messages.

    Raises:
        InputError: no file, another encoding, missing or repeated columns, a column without a name, or a row with more or
            fewer cells than the header; the message names the line.
    """
    path = Path(path)
    text = _Text(where, path, _decoded(where, path))
    delimiter, first = text.delimiter(needed)
    (_, columns), *rows = text.cells(delimiter, first)
    repeated = next((name for name in columns if name and columns.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"[{where}] expected every column once, got {repeated!r} again in line {first + 1} of {path}")
    file = CsvFile(where, path, delimiter, [name for name in columns if name], [])
    for line, cells in rows:
        row = Row(line, {name: cell for name, cell in zip(columns, cells) if name})
        if len(cells) != len(columns):
            advice = "; write a point before decimals" if delimiter == "," and len(cells) > len(columns) else ""
            raise file.refuse(f"{len(columns)} cells as in the header", str(len(cells)), row, advice)
        if any(cell and not name for name, cell in zip(columns, cells)):
            raise file.refuse("a name for every column", "a cell below none", row)
        file.rows.append(row)
    return file


def _decoded(where: str, path: Path) -> list[str]:
    """Return the lines of a file, whatever its encoding and its line ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"[{where}] expected a CSV file, got nothing at {path}") from None
    except OSError as error:
        raise InputError(f"[{where}] expected a CSV file, got {error}") from None
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise ValueError("zero bytes")
    except ValueError as error:
        raise InputError(f"[{where}] expected a CSV file in UTF-8 or UTF-16, got {error} in {path}; "
                         "save it as 'CSV UTF-8'") from None  # fmt: skip
    return list(io.StringIO(text, newline=""))


@dataclass(frozen=True)
class _Text:
    """Lines of a file, not yet split into cells."""

    where: str
    path: Path
    lines: list[str]

    def delimiter(self, needed: Collection[str]) -> tuple[str, int]:
        """Return the delimiter under which the first line with content has the needed names, and that line's index."""
        first = next((index for index, line in enumerate(self.lines) if line.strip()), 0)
        if re.fullmatch(r"sep=.\s*", "".join(self.lines[first : first + 1])):
            first += 1  # Excel's own line
        heads: list[list[str]] = [[]]
        header = _Text(self.where, self.path, self.lines[: first + 1])
        for delimiter in _DELIMITERS:
            # Quotes around the cells of another delimiter are an error under this one.
            with contextlib.suppress(InputError):
                heads += [cells for _, cells in header.cells(delimiter, first)]
            if set(needed) <= set(heads[-1]):
                return delimiter, first
        names = (" and " if len(needed) == 2 else ", ").join(needed)
        longest = max(heads, key=len)
        got = ", ".join(longest) or "nothing"
        raise InputError(f"[{self.where}] expected the columns {names}, got {got or 'nothing'} in line {first + 1} of "
                         f"{self.path}; separate them by commas, semicolons or tabs")  # fmt: skip

    def cells(self, delimiter: str, first: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the line and the cells of every row with content, from the line with index `first` on."""
        reader = csv.reader(self.lines[first:], delimiter=delimiter, skipinitialspace=True, strict=True)
        line = first + 1
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield line, cells
                line = first + reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"[{self.where}] expected {_DELIMITERS[delimiter]} between cells and whole quotes, got {error} in "
                             f"line {line} of {self.path}") from None  # fmt: skip
