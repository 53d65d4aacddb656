"""An architecture: a (cell, path) per block, with a short string form that parses back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pynas.errors import InputError

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_BLOCK = re.compile(r"(?:(\d+):)?((?:[0-9a-z]|\(\d+\))+)", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """The choice of a block: a cell, and a candidate for each layer of that cell."""

    cell: int
    path: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A choice per block; immutable and hashable.

    `str` gives a form like `11|1031|2:30a`: blocks are joined by `|`, each layer is a base-36 digit (candidate 36 and
    later ones are written `(36)`), and `cell:` stands in front where the cell is not the first. `Architecture.parse`
    reads the form back; `Space.parse` also checks it against a space.
    """

    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, choices: Iterable[tuple[int, Iterable[int]]]) -> Architecture:
        """Build an architecture from (cell, path) pairs."""
        return cls(tuple(Choice(int(cell), tuple(int(c) for c in path)) for cell, path in choices))

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read the string form.

        Raises:
            InputError: a block of another form than `[cell:]digits`.
        """
        choices = []
        for block, part in enumerate(text.strip().split("|")):
            match = _BLOCK.fullmatch(part)
            if match is None:
                raise InputError(
                    f"[architecture] expected blocks like '2:301' or '301' joined by '|', "
                    f"got {part!r} as block {block} of {text!r}"
                )
            cell, path = match.groups()
            choices.append((int(cell or 0), (_number(c) for c in re.findall(r"\(\d+\)|.", path))))
        return cls.of(choices)

    def __str__(self) -> str:
        return "|".join(
            (f"{choice.cell}:" if choice.cell else "") + "".join(map(_digit, choice.path)) for choice in self.choices
        )

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, block: int) -> Choice:
        return self.choices[block]


def _digit(candidate: int) -> str:
    return _DIGITS[candidate] if candidate < len(_DIGITS) else f"({candidate})"


def _number(digit: str) -> int:
    return int(digit[1:-1]) if digit[0] == "(" else _DIGITS.index(digit)
