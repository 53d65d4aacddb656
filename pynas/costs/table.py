"""Dense cost tables: the cost of every path of every cell, and of the parts that every architecture has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pynas.costs.names import check_apart, check_renaming, join_metadata, rename_metadata
from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays
from pynas.spaces import Architecture, Space

_KIND = "pynas.costs"


@dataclass(frozen=True)
class Tied:
    """Parameters that several blocks share: the tables have their cost in each, and an architecture has it once.

    values: cost by name. uses: which paths use them, bool arrays per cell, by block.
    """

    values: Mapping[str, int]
    uses: Mapping[int, Sequence[np.ndarray]]

    def excess(self, name: str, architecture: Architecture) -> int:
        """Cost that the tables have too much for an architecture."""
        blocks = sum(bool(cells[architecture[b].cell][architecture[b].path]) for b, cells in self.uses.items())
        return self.values.get(name, 0) * max(0, blocks - 1)


@dataclass
class Costs:
    """`costs["madds"][b][cell]`: an array with one axis per layer, the shape of the cell's score table.

    tables: by name, per block, per cell: int64 (counts) or float64 (latency, ms) `[c_1, ..., c_L]`.
    fixed: by name, the cost of the parts outside the blocks (stem, head), added once.
    tied: what blocks share. Such a cost does not add up over the blocks: `of` gives it for an architecture, but
        `costs[name]` raises an `InputError`, as no search over tables would be exact.
    space: the space that the tables belong to; None where it is not known, as in costs read from a file.
    """

    tables: Mapping[str, Sequence[Sequence[np.ndarray]]] = field(repr=False)
    fixed: Mapping[str, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tied: Sequence[Tied] = field(default=(), repr=False)
    space: Space | None = field(default=None, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the costs."""
        return tuple(self.tables)

    @property
    def additive(self) -> tuple[str, ...]:
        """Names of the costs that add up over the blocks: those with tables."""
        return tuple(name for name in self.tables if not any(name in tied.values for tied in self.tied))

    def __getitem__(self, name: str) -> Sequence[Sequence[np.ndarray]]:
        if name not in self.tables:
            raise InputError(f"[costs] expected one of {', '.join(self.names)}, got {name!r}")
        if name not in self.additive:
            why = self.metadata.get("not_additive", {}).get(name, "blocks share parameters")
            raise InputError(f"[costs] expected a cost that adds up over the blocks, got {name!r}: {why}; limit one of "
                             f"{', '.join(self.additive)}, or rate whole architectures, whose {name} `of` gives")  # fmt: skip
        return self.tables[name]

    def __or__(self, other: Costs) -> Costs:
        """Join with costs of other names.

        Raises:
            InputError: a name that both have, or tables of another space.
        """
        check_apart(self.names, other.names)
        shapes = [[[*map(np.shape, cells)] for cells in costs.tables[costs.names[0]]] for costs in (self, other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"[costs] expected tables of the shapes {shapes[0]}, got {shapes[1]}")
        tables, fixed = {**self.tables, **other.tables}, {**self.fixed, **other.fixed}
        return Costs(
            tables,
            fixed,
            join_metadata(self.metadata, other.metadata),
            [*self.tied, *other.tied],
            self.space or other.space,
        )

    def renamed(self, names: Mapping[str, str]) -> Costs:
        """Return the same costs under other names, e.g. `{"latency": "latency@phone"}`, so that they join with others.

        A name that begins with `latency@` is a time in ms. Costs that `names` leaves out keep their names.

        Raises:
            InputError: an unknown cost, or names that are not different, or of other characters than letters, digits, `_.@-`.
        """
        new = check_renaming(self.names, names)
        tables = {new[name]: blocks for name, blocks in self.tables.items()}
        fixed = {new[name]: value for name, value in self.fixed.items()}
        tied = [
            Tied({new.get(name, name): value for name, value in each.values.items()}, each.uses) for each in self.tied
        ]
        return Costs(tables, fixed, rename_metadata(self.metadata, new), tied, self.space)

    def of(self, architecture: Architecture) -> dict[str, float]:
        """Costs of an architecture by name, fixed part included; sums are exact, and rounded once where they are not whole."""
        costs = {}
        for name, blocks in self.tables.items():
            parts = [blocks[b][choice.cell][choice.path].item() for b, choice in enumerate(architecture)]
            parts += [self.fixed[name], *(-tied.excess(name, architecture) for tied in self.tied)]
            costs[name] = sum(parts) if all(isinstance(part, int) for part in parts) else math.fsum(parts)
        return costs

    def save(self, path: str | Path) -> None:
        """Write a versioned .npz, atomically."""
        arrays = {f"{name}/{b}/{c}": cell for name, blocks in self.tables.items() for b, cells in enumerate(blocks)
                  for c, cell in enumerate(cells)}  # fmt: skip
        arrays |= {f"fixed/{name}": np.asarray(value) for name, value in self.fixed.items()}
        for number, tied in enumerate(self.tied):
            arrays |= {f"tied/{number}/{name}": np.asarray(value) for name, value in tied.values.items()}
            arrays |= {f"tied/{number}/{b}/{c}": cell for b, cells in tied.uses.items() for c, cell in enumerate(cells)}
        write_arrays(path, _KIND, arrays, **self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> Costs:
        """Read a file that `save` wrote.

        Raises:
            InputError: a file that is missing, damaged, or of another version.
        """
        arrays, metadata = read_arrays(path, _KIND)
        fixed = {key.split("/")[1]: value.item() for key, value in arrays.items() if key.startswith("fixed/")}
        tables: dict[str, list[list[np.ndarray]]] = {name: [] for name in fixed}
        tied: dict[str, Tied] = {}
        for key, value in arrays.items():
            name, *where = key.split("/")
            if name == "fixed":
                continue
            if name == "tied":
                known = tied.setdefault(where[0], Tied({}, {}))
                if len(where) == 2:
                    known.values[where[1]] = value.item()  # type: ignore[index]
                else:
                    known.uses.setdefault(int(where[1]), []).append(value)  # type: ignore[attr-defined]
                continue
            block, cell = map(int, where)
            blocks = tables[name]
            blocks.extend([] for _ in range(block + 1 - len(blocks)))
            blocks[block].append(value)
            assert len(blocks[block]) == cell + 1
        return cls(tables, fixed, metadata, list(tied.values()))
