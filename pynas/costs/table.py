"""Dense cost tables: the cost of every path of every cell, and of the parts that every architecture has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays
from pynas.spaces import Architecture

_KIND = "pynas.costs"

# Headings of the costs that pynas measures, with their units.
UNITS = {"params": "parameters", "madds": "MAdds", "memory": "memory (bytes)", "latency": "latency (ms)"}


@dataclass
class Costs:
    """`costs["madds"][b][cell]`: an array with one axis per layer, the shape of the cell's score table.

    tables: by name, per block, per cell: int64 (counts) or float64 (latency, ms) `[c_1, ..., c_L]`.
    fixed: by name, the cost of the parts outside the blocks (stem, head), added once.
    """

    tables: Mapping[str, Sequence[Sequence[np.ndarray]]]
    fixed: Mapping[str, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the costs."""
        return tuple(self.tables)

    def __getitem__(self, name: str) -> Sequence[Sequence[np.ndarray]]:
        if name not in self.tables:
            raise InputError(f"[costs] expected one of {', '.join(self.names)}, got {name!r}")
        return self.tables[name]

    def __or__(self, other: Costs) -> Costs:
        """Join with costs of other names.

        Raises:
            InputError: a name that both have, or tables of another space.
        """
        if set(self.names) & set(other.names):
            raise InputError(f"[costs] expected other names than {', '.join(self.names)}, got {', '.join(other.names)}")
        shapes = [[[np.shape(cell) for cell in cells] for cells in costs[costs.names[0]]] for costs in (self, other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"[costs] expected tables of the shapes {shapes[0]}, got {shapes[1]}")
        return Costs(
            {**self.tables, **other.tables}, {**self.fixed, **other.fixed}, {**self.metadata, **other.metadata}
        )

    def of(self, architecture: Architecture) -> dict[str, float]:
        """Costs of an architecture by name, fixed part included; sums are exact, and rounded once where they are not whole."""
        costs = {}
        for name, blocks in self.tables.items():
            parts = [blocks[b][choice.cell][choice.path].item() for b, choice in enumerate(architecture)]
            parts.append(self.fixed[name])
            costs[name] = sum(parts) if all(isinstance(part, int) for part in parts) else math.fsum(parts)
        return costs

    def save(self, path: str | Path) -> None:
        """Write a versioned .npz, atomically."""
        arrays = {f"{name}/{b}/{c}": cell for name, blocks in self.tables.items() for b, cells in enumerate(blocks)
                  for c, cell in enumerate(cells)}  # fmt: skip
        fixed = {f"fixed/{name}": np.asarray(value) for name, value in self.fixed.items()}
        write_arrays(path, _KIND, arrays | fixed, **self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> Costs:
        """Read a file that `save` wrote.

        Raises:
            InputError: a file that is missing, damaged, or of another version.
        """
        arrays, metadata = read_arrays(path, _KIND)
        fixed = {key.split("/")[1]: value.item() for key, value in arrays.items() if key.startswith("fixed/")}
        tables: dict[str, list[list[np.ndarray]]] = {name: [] for name in fixed}
        for key, value in arrays.items():
            name, *where = key.split("/")
            if name == "fixed":
                continue
            block, cell = map(int, where)
            blocks = tables[name]
            blocks.extend([] for _ in range(block + 1 - len(blocks)))
            blocks[block].append(value)
            assert len(blocks[block]) == cell + 1
        return cls(tables, fixed, metadata)
