"""Costs by layer, for spaces whose cells have too many paths for dense tables (AutoFormer: 4^14 in one cell)."""

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
from pynas.spaces import Architecture

_KIND = "pynas.layer_costs"


@dataclass(frozen=True)
class LayerTable:
    """A quantity that adds up along a path: `fixed[cell]`, plus `layers[cell][layer][candidate]` for each layer.

    fixed: value of the parts that every path of a cell has, such as stem and head. layers: per cell `[L, candidates]`.
    """

    fixed: Sequence[float]
    layers: Sequence[np.ndarray]

    def of(self, architecture: Architecture) -> float:
        """Sum along an architecture's path; sums of whole numbers are exact."""
        (choice,) = architecture
        values = self.layers[choice.cell][np.arange(len(choice.path)), list(choice.path)].tolist()
        values.append(self.fixed[choice.cell])
        return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)

    def paths(self, cell: int, paths: np.ndarray) -> np.ndarray:
        """Sums along many paths of one cell; paths: `[N, L]` -> `[N]`."""
        return self.fixed[cell] + np.take_along_axis(self.layers[cell].T, paths, 0).sum(1)

    def bounds(self) -> tuple[float, float]:
        """Least and greatest sum over all architectures."""
        low = min(fixed + layers.min(1).sum().item() for fixed, layers in zip(self.fixed, self.layers))
        return low, max(fixed + layers.max(1).sum().item() for fixed, layers in zip(self.fixed, self.layers))


@dataclass(frozen=True)
class LayerCosts:
    """Costs by name (`params`, `madds`, `memory`, `latency` in ms), each a `LayerTable`."""

    tables: Mapping[str, LayerTable]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the costs."""
        return tuple(self.tables)

    additive = names

    def __getitem__(self, name: str) -> LayerTable:
        if name not in self.tables:
            raise InputError(f"[costs] expected one of {', '.join(self.names)}, got {name!r}")
        return self.tables[name]

    def __or__(self, other: LayerCosts) -> LayerCosts:
        """Join with costs of other names; raises InputError for a name that both have."""
        check_apart(self.names, other.names)
        return LayerCosts({**self.tables, **other.tables}, join_metadata(self.metadata, other.metadata))

    def renamed(self, names: Mapping[str, str]) -> LayerCosts:
        """Return the same costs under other names, as `Costs.renamed`."""
        new = check_renaming(self.names, names)
        tables = {new[name]: table for name, table in self.tables.items()}
        return LayerCosts(tables, rename_metadata(self.metadata, new))

    def of(self, architecture: Architecture) -> dict[str, float]:
        """Costs of an architecture, by name."""
        return {name: table.of(architecture) for name, table in self.tables.items()}

    def save(self, path: str | Path) -> None:
        """Write a versioned .npz, atomically."""
        arrays = {}
        for name, table in self.tables.items():
            arrays[f"{name}/fixed"] = np.array(table.fixed)
            arrays |= {f"{name}/{cell}": layers for cell, layers in enumerate(table.layers)}
        write_arrays(path, _KIND, arrays, **self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> LayerCosts:
        """Read a file that `save` wrote.

        Raises:
            InputError: a file that is missing, damaged, or of another version.
        """
        arrays, metadata = read_arrays(path, _KIND)
        tables = {}
        for name in dict.fromkeys(key.split("/")[0] for key in arrays):
            fixed = arrays[f"{name}/fixed"].tolist()
            tables[name] = LayerTable(fixed, [arrays[f"{name}/{cell}"] for cell in range(len(fixed))])
        return cls(tables, metadata)
