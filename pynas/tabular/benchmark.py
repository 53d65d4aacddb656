"""A published benchmark: architectures in the field's string form, with their accuracies when trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pynas.errors import InputError
from pynas.spaces import Architecture, Space


@dataclass(frozen=True)
class Benchmark:
    """Rows in the order of the source's table.

    data: the data set of the accuracies.
    architectures: the field's own strings, `64:40:48:64:56`, `11|1111|1101|1011|1101` or NAS-Bench-201's.
    choices: uint8 `[N, L]`, the candidate of every layer or edge. ops: names of the candidates, by code.
    accuracy: `[N]`, test top-1 in percent.
    seeds: accuracies of single runs, `[N, S]` in percent, NaN where there is none; None where none are published.
    isomorphism: `[N]`, rows of equal numbers compute one function; None where every row is a class of its own.
    """

    name: str
    data: str
    architectures: Sequence[str]
    choices: np.ndarray
    ops: Sequence[str]
    accuracy: np.ndarray
    source: str
    licence: str
    seeds: np.ndarray | None = None
    isomorphism: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def classes(self) -> np.ndarray:
        """Isomorphism class of every row, int64 `[N]`, numbered from 0 in the order of first appearance."""
        labels = np.arange(len(self)) if self.isomorphism is None else self.isomorphism
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.architectures)}

    @cached_property
    def _rows_by_choices(self) -> dict[bytes, int]:
        return {codes.tobytes(): row for row, codes in enumerate(self.choices)}

    @cached_property
    def _spells_out(self) -> bool:
        """Whether the strings name the candidates rather than number them."""
        return any(op in self.architectures[0] for op in self.ops)

    def index(self, architecture: str | Architecture, space: Space | None = None) -> int:
        """Row of an architecture, given by its string or as an `Architecture` (candidates in the order of layers).

        space: the space of an `Architecture`, needed where the table's strings name candidates: number 0 of a space of three
        operations is another operation than number 0 of all five.

        Raises:
            InputError: an architecture that is not in the table, or a missing space.
        """
        if isinstance(architecture, Architecture) and space is not None and space.notation is not None:
            architecture = space.format(architecture)
        row = self._rows.get(str(architecture).strip())
        if row is None and isinstance(architecture, Architecture):
            if self._spells_out and space is None:
                raise InputError(f"[{self.name}] expected the space beside {architecture}, whose candidates are numbers: "
                                 "index(architecture, space)")  # fmt: skip
            codes = [candidate for choice in architecture for candidate in choice.path]
            row = self._rows_by_choices.get(bytes(codes))
        if row is None:
            raise InputError(
                f"[{self.name}] expected one of its {len(self):,} architectures, like {self.architectures[0]!r}, "
                f"got {str(architecture)!r}"
            )
        return row

    def where(self, mask: np.ndarray) -> Benchmark:
        """Select rows by a boolean array, e.g. `bench.where(bench.accuracy > 92)`.

        Raises:
            InputError: not one boolean per row, or no row selected.
        """
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise InputError(f"[{self.name}] expected a boolean for each of {len(self):,} rows, "
                             f"got {mask.dtype} {list(mask.shape)}")  # fmt: skip
        if not mask.any():
            raise InputError(f"[{self.name}] expected a choice of at least one of its {len(self):,} rows, got none")
        return replace(
            self,
            architectures=tuple(self.architectures[row] for row in np.flatnonzero(mask).tolist()),
            choices=self.choices[mask],
            accuracy=self.accuracy[mask],
            seeds=None if self.seeds is None else self.seeds[mask],
            isomorphism=None if self.isomorphism is None else self.isomorphism[mask],
        )

    def without(self, *ops: str) -> Benchmark:
        """Select the rows without these operations, e.g. `bench.without("none", "skip_connect")`: Pi-NAS's 729 cells.

        Raises:
            InputError: an operation that the benchmark does not have.
        """
        for op in ops:
            if op not in self.ops:
                raise InputError(f"[{self.name}] expected operations of {', '.join(self.ops)}, got {op!r}")
        used = np.isin(self.choices, [list(self.ops).index(op) for op in ops])
        return self.where(np.asarray(~used.any(axis=1)))
