"""Costs layer by layer: for spaces whose cells have too many paths for dense tables (AutoFormer: 4^14 in one cell)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pynas.costs.count import NAMES, count_module
from pynas.costs.latency import NAME as LATENCY
from pynas.costs.latency import device_name, time_calls
from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays
from pynas.spaces import Architecture, Space
from pynas.supernets.shapes import to_meta

_KIND = "pynas.layer_costs"


@dataclass(frozen=True)
class LayerTable:
    """One quantity that adds up along a path: `fixed[cell]`, plus `layers[cell][layer][candidate]` for each layer.

    fixed: the stem, the head, and whatever else a path of the cell has always. layers: per cell `[L, candidates]`.
    """

    fixed: Sequence[float]
    layers: Sequence[np.ndarray]

    def of(self, architecture: Architecture) -> float:
        """The sum along an architecture's path; whole numbers add up exactly."""
        (choice,) = architecture
        values = self.layers[choice.cell][np.arange(len(choice.path)), list(choice.path)].tolist()
        values.append(self.fixed[choice.cell])
        return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)

    def paths(self, cell: int, paths: np.ndarray) -> np.ndarray:
        """The sums along many paths of one cell; paths: `[N, L]` -> `[N]`."""
        return self.fixed[cell] + np.take_along_axis(self.layers[cell].T, paths, 0).sum(1)

    def bounds(self) -> tuple[float, float]:
        """The least and the greatest of all architectures."""
        low = min(fixed + layers.min(1).sum().item() for fixed, layers in zip(self.fixed, self.layers))
        return low, max(fixed + layers.max(1).sum().item() for fixed, layers in zip(self.fixed, self.layers))


@dataclass(frozen=True)
class LayerCosts:
    """Costs by name (`params`, `madds`, `memory`, `latency` in ms), each a `LayerTable`."""

    tables: Mapping[str, LayerTable]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The costs at hand."""
        return tuple(self.tables)

    def __getitem__(self, name: str) -> LayerTable:
        if name not in self.tables:
            raise InputError(f"[costs] expected one of {', '.join(self.names)}, got {name!r}")
        return self.tables[name]

    def __or__(self, other: LayerCosts) -> LayerCosts:
        """Both, of other names."""
        return LayerCosts({**self.tables, **other.tables}, {**self.metadata, **other.metadata})

    def of(self, architecture: Architecture) -> dict[str, float]:
        """What an architecture costs, by name."""
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
            InputError: missing, damaged, or of another version.
        """
        arrays, metadata = read_arrays(path, _KIND)
        tables = {}
        for name in dict.fromkeys(key.split("/")[0] for key in arrays):
            fixed = arrays[f"{name}/fixed"].tolist()
            tables[name] = LayerTable(fixed, [arrays[f"{name}/{cell}"] for cell in range(len(fixed))])
        return cls(tables, metadata)


def count_layers(net: Any, image_shape: tuple[int, int, int]) -> LayerCosts:
    """`params`, `madds` and `memory` (bytes) of a net of one block, layer by layer, for one image of `image_shape`.

    net: has `.space` and `extract(architecture) -> nn.Sequential` of stem, block_1 and head. An architecture's costs
    equal what `count_module` counts on its extracted network. Candidates of one description are counted once.
    """
    net = to_meta(net)

    def count(parts: list[_Part]) -> list[dict[str, int]]:
        return [count_module(part.module, part.shape)[0] for part in parts]

    return _tables(net, image_shape, count, NAMES)


@torch.inference_mode()
def layer_latency(
    net: Any,
    image_shape: tuple[int, int, int],
    device: str | torch.device = "cpu",
    *,
    batch_size: int = 1,
    repeats: int = 20,
    warm_up: int = 3,
) -> LayerCosts:
    """`latency`: ms for one batch, the median of `repeats`, of every distinct candidate of an extracted network."""
    device = torch.device(device)
    spreads: list[float] = []

    def measure(parts: list[_Part]) -> list[dict[str, float]]:
        buffers = {part.shape: torch.randn(batch_size, *part.shape, device=device) for part in parts}
        calls = [_call(part.module.to(device).eval(), buffers[part.shape]) for part in parts]
        timings = time_calls(calls, device, repeats, warm_up)
        spreads.extend(timing.spread for timing in timings)
        return [{LATENCY: timing.median} for timing in timings]

    costs = _tables(net, image_shape, measure, (LATENCY,))
    said = {"device": device_name(device), "batch_size": batch_size, "repeats": repeats,
            "median_spread": float(np.median(spreads))}  # fmt: skip
    return LayerCosts(costs.tables, {**costs.metadata, **said})


@dataclass(frozen=True)
class _Part:
    module: nn.Module
    shape: tuple[int, ...]


def _call(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: module(x)


def _tables(net: Any, image_shape: tuple[int, ...], value: Callable, names: Sequence[str]) -> LayerCosts:
    """Collect the distinct parts, value them all in one go, and spread the values over the tables."""
    space: Space = net.space
    if len(space) != 1:
        raise InputError(f"[costs] expected a space of one block for costs by layer, got {len(space)} in {space.name}")
    parts: dict[Any, _Part] = {}
    for key, part in _parts(net, space, tuple(image_shape)):
        parts.setdefault(key, part)
    values = dict(zip(parts, value(list(parts.values()))))
    tables = {}
    for name in names:
        fixed = [sum(values[end, _cell_key(cell)][name] for end in ("stem", "head")) for cell in space.blocks[0]]
        layers = [
            np.array([[values[spec][name] for spec in layer] for layer in cell.layers]) for cell in space.blocks[0]
        ]
        tables[name] = LayerTable(fixed, layers)
    return LayerCosts(tables, {"space": space.name, "image_shape": list(image_shape)})


def _cell_key(cell: Any) -> Any:
    return cell.layers[0][0]


def _parts(net: Any, space: Space, image_shape: tuple[int, ...]) -> Iterator[tuple[Any, _Part]]:
    """Stem, head and candidates, each with the shape of its input; cells that begin alike have stem and head in common."""
    seen: set = set()
    for c, cell in enumerate(space.blocks[0]):
        # One network shows several candidates, each in another layer; layers keep the shape.
        for shift in range(max(cell.counts)):
            path = [(layer + shift) % count for layer, count in enumerate(cell.counts)]
            chosen = [layer[candidate] for layer, candidate in zip(cell.layers, path)]
            if seen.issuperset(chosen):
                continue
            seen.update(chosen)
            plain = net.extract(Architecture.of([(c, path)]))
            yield ("stem", _cell_key(cell)), _Part(plain.stem, image_shape)
            shape = count_module(plain.stem, image_shape)[1]
            for spec, module in zip(chosen, plain.block_1):
                yield spec, _Part(module, shape)
            yield ("head", _cell_key(cell)), _Part(plain.head, shape)
