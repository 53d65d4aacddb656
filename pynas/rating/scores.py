"""Score tables of all blocks, with the space that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays
from pynas.rating.table import ScoreTable
from pynas.spaces import Architecture, Space, get

_KIND = "pynas.block_scores"


@dataclass(frozen=True)
class Scores:
    """Score tables of all blocks; `scores[b][cell]` is the `ScoreTable` of a cell. Lower is better.

    space: the space that the tables belong to; a search reads the boundary states off it.
    tables: by `[block][cell]`; a table has the layers of its cell.
    metadata: how the scores were computed (checkpoint, data, loss, norm mode, ...), kept in the files.

    Raises:
        InputError: tables whose shapes are not those of the space's cells.
    """

    space: Space
    tables: Sequence[Sequence[ScoreTable]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = [[cell.counts for cell in cells] for cells in self.space.blocks]
        shapes = [[table.shape for table in cells] for cells in self.tables]
        if shapes != expected:
            raise InputError(f"[scores] expected tables of the shapes {expected}, as the cells of {self.space} have, "
                             f"got {shapes}")  # fmt: skip

    @classmethod
    def product(cls, tables: Sequence[Sequence[ScoreTable]], name: str = "own") -> Scores:
        """Scores of a product space, in which every path of a block goes with every path of the other blocks.

        tables: by `[block][cell]`. Use `Scores(space, tables)` for a space with boundary states.

        Raises:
            InputError: no table.
        """
        if not all(tables) or len(tables) == 0:
            raise InputError("[scores] expected the score tables of at least one block and cell, got none")
        counts = [[table.shape for table in cells] for cells in tables]
        return cls(Space.from_counts(name, counts), tables)

    @classmethod
    def check(cls, where: str, scores: Any, space: Space | None = None) -> Scores:
        """Return `scores` if they are a `Scores`, or nested sequences of the tables of `space`.

        where: name in front of the error.

        Raises:
            InputError: anything else, as nested lists of tables without their space, which do not say how blocks combine.
        """
        nested = isinstance(scores, (list, tuple)) and all(isinstance(cells, (list, tuple)) for cells in scores)
        if space is not None and nested and all(isinstance(table, ScoreTable) for cells in scores for table in cells):
            return cls(space, scores)
        if not isinstance(scores, Scores):
            raise InputError(f"[{where}] expected Scores, got {type(scores).__name__}; write Scores(space, tables) for the "
                             "tables of a space, or Scores.product(tables) where every path of a block goes with every "
                             "path of the others")  # fmt: skip
        return scores

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.tables)

    def __getitem__(self, block: int) -> Sequence[ScoreTable]:
        """Tables of a block, by cell."""
        return self.tables[block]

    def __iter__(self) -> Iterator[Sequence[ScoreTable]]:
        return iter(self.tables)

    def of(self, architecture: Architecture) -> float:
        """Sum of an architecture's block scores; NaN where one of its paths was not rated.

        Raises:
            InputError: an architecture outside the space.
        """
        self.space.check(architecture)
        return float(self.total([architecture])[0])

    def total(self, architectures: Iterable[Architecture]) -> np.ndarray:
        """Sum of the block scores of each architecture, float64 `[N]`; NaN where a path was not rated."""
        return np.asarray(sum(self.by_block(architectures).T))  # block after block

    def by_block(self, architectures: Iterable[Architecture]) -> np.ndarray:
        """Score of every block of every architecture, float64 `[N, blocks]`; NaN where a path was not rated.

        architectures: members of the space; they are not checked.
        """
        architectures = list(architectures)
        scores = np.full((len(architectures), len(self.tables)), np.nan)
        for b, cells in enumerate(self.tables):
            chosen = np.array([architecture[b].cell for architecture in architectures], np.int64)
            for c in np.unique(chosen).tolist():
                rows = np.flatnonzero(chosen == c)
                scores[rows, b] = cells[c].at([architectures[row][b].path for row in rows])
        return scores

    def save(self, folder: str | Path) -> None:
        """Write `block_1.npz`, `block_2.npz`, ... into a folder, each file atomically."""
        for b, cells in enumerate(self.tables):
            save_block(block_file(folder, b), cells, **{**self.metadata, "space": self.space.name})

    @classmethod
    def load(cls, folder: str | Path, space: Space | None = None) -> Scores:
        """Read the files that `save` wrote.

        space: where None, pynas's own space of the name in the files.

        Raises:
            InputError: a file that is missing, damaged, or of another version, or a name that is not one of pynas's.
        """
        first, metadata = load_block(block_file(folder, 0))
        space = space or get(metadata.get("space", ""))
        rest = [load_block(block_file(folder, b))[0] for b in range(1, len(space))]
        return cls(space, [first, *rest], {name: value for name, value in metadata.items() if name != "space"})

    @staticmethod
    def complete(folder: str | Path, space: Space) -> bool:
        """Whether a folder holds a file for every block of the space."""
        return all(block_file(folder, b).exists() for b in range(len(space)))


def block_file(folder: str | Path, block: int) -> Path:
    """File of a block's score tables in a folder of scores; `block` counts from 0, the file names from 1."""
    return Path(folder) / f"block_{block + 1}.npz"


def save_block(path: str | Path, tables: Sequence[ScoreTable], **metadata: Any) -> None:
    """Write the tables of all cells of a block, atomically."""
    arrays = {f"cell_{c}/{name}": array for c, table in enumerate(tables) for name, array in table.arrays().items()}
    write_arrays(path, _KIND, {name.removesuffix("/scores"): array for name, array in arrays.items()}, **metadata)


def load_block(path: str | Path) -> tuple[list[ScoreTable], dict[str, Any]]:
    """Read the tables of a block and their metadata.

    Raises:
        InputError: a file that is missing, damaged, or of another version.
    """
    arrays, metadata = read_arrays(path, _KIND)
    cells: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        cell, _, part = name.partition("/")
        cells.setdefault(cell, {})[part or "scores"] = array
    return [ScoreTable.of_arrays(cells[f"cell_{c}"], metadata) for c in range(len(cells))], metadata
