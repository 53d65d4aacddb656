"""Every module of a supernet with the shapes of the inputs it gets, and values of modules summed along paths."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import reduce
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from pynas.errors import InputError
from pynas.spaces import Cell
from pynas.supernets.supernet import Supernet

T = TypeVar("T")
Shape = tuple[int, ...]
Place = tuple  # ("stem",), ("head",) or (block, cell, layer, candidate)
# What is to be known of a module on an input of a shape (without the batch), and the shape it puts out.
Visit = Callable[[nn.Module, Shape, Place], tuple[T, Shape]]


class WalkedCell(Generic[T]):
    """A cell's candidates on every shape that an allowed path brings them.

    found[l]: by (candidate, index of the input's shape). after[l]: for every prefix of l candidates, the index of the shape
    it puts out, -1 where the prefix is not allowed; int `[c_1, ..., c_l]`. shapes[l]: these shapes.
    """

    def __init__(self, cell: Cell, layers: list[list[nn.Module]], start: Shape, place: Place, visit: Visit[T]) -> None:
        self.cell = cell
        self.found: list[dict[tuple[int, int], T]] = []
        self.after, self.shapes = [np.zeros((), np.int64)], [[start]]
        for depth, layer in enumerate(layers):
            grown = self._allowed(depth, len(layer))
            before = np.broadcast_to(self.after[-1][..., None], grown.shape)
            onward = np.full((len(self.shapes[-1]), len(layer)), -1, np.int64)
            found: dict[tuple[int, int], T] = {}
            shapes: list[Shape] = []
            for k, module in enumerate(layer):
                for index in np.unique(before[..., k][grown[..., k]]).tolist():
                    found[k, index], shape = visit(module, self.shapes[-1][index], (*place, depth, k))
                    if shape not in shapes:
                        shapes.append(shape)
                    onward[index, k] = shapes.index(shape)
            self.found.append(found)
            self.shapes.append(shapes)
            self.after.append(np.where(grown, onward[before, np.arange(len(layer))], -1))

    def _allowed(self, depth: int, count: int) -> np.ndarray:
        """Which prefixes with one more candidate the cell allows."""
        grown = np.repeat((self.after[-1] >= 0)[..., None], count, axis=-1)
        if self.cell.allowed is not None:
            for prefix in np.argwhere(grown).tolist():
                grown[tuple(prefix)] = self.cell.allowed(tuple(prefix))
        return grown

    def ends(self) -> Iterator[tuple[Hashable, Shape]]:
        """The states that paths leave, with the shapes they put out."""
        if self.cell.leaves is None:
            yield from ((None, shape) for shape in self.shapes[-1])
            return
        pairs = {(self.cell.end(path), int(self.after[-1][path])) for path in self.cell.paths()}
        yield from ((state, self.shapes[-1][index]) for state, index in pairs)

    def table(self, value: Callable[[T], float]) -> np.ndarray:
        """The sum of a value along every path, `[c_1, ..., c_L]`; 0 where a path is not allowed."""
        total = np.zeros((), np.int64)
        for layer, before, shapes, count in zip(self.found, self.after, self.shapes, self.cell.counts):
            values = {place: value(known) for place, known in layer.items()}
            known = np.zeros((len(shapes), count), np.result_type(*map(type, values.values())))
            for (k, index), number in values.items():
                known[index, k] = number
            total = total[..., None] + known[before]
        return np.where(self.after[-1] >= 0, total, 0)


class Placed(Generic[T]):
    """The same of a net of one block that says itself where its modules stand: all modules of a candidate add up."""

    def __init__(self, net: Any, image_shape: Shape, visit: Visit[T]) -> None:
        self.counts = net.space.blocks[0][0].counts
        self.found = [(visit(module, shape, place)[0], place) for module, shape, place in net.placed(image_shape)]

    def fixed(self, value: Callable[[T], float]) -> float:
        """The sum of a value over the parts that no choice changes."""
        return sum(value(known) for known, place in self.found if len(place) == 1)

    def tables(self, value: Callable[[T], float]) -> list[list[np.ndarray]]:
        """The sum of a value along every path."""
        values = [(value(known), place) for known, place in self.found if len(place) > 1]
        layers = [np.zeros(count, np.result_type(*(type(number) for number, _ in values))) for count in self.counts]
        for number, (_, _, layer, candidate) in values:
            layers[layer][candidate] += number
        return [[reduce(np.add.outer, layers)]]


def walk(net: Any, image_shape: Shape, visit: Visit[T]) -> Walked[T] | Placed[T]:
    """What `visit` says of every module of a supernet."""
    return Placed(net, image_shape, visit) if hasattr(net, "placed") else Walked(net, image_shape, visit)


class Walked(Generic[T]):
    """All modules of a supernet; `stem` and `head` are None where there are none, or where the head depends on the path."""

    def __init__(self, net: Supernet, image_shape: Shape, visit: Visit[T]) -> None:
        visit = _once(visit)
        self.stem: T | None = None
        self.head: T | None = None
        self.blocks: list[list[WalkedCell[T]]] = []
        self._heads: dict[Shape, T] = {}
        shape = tuple(image_shape)
        if net.stem is not None:
            self.stem, shape = visit(net.stem, shape, ("stem",))
        starts: dict[Hashable, Shape] = {None: shape}
        for b, cells in enumerate(net.space.blocks):
            self.blocks.append(
                [WalkedCell(cell, net.layers(b, c), starts[cell.start], (b, c), visit) for c, cell in enumerate(cells)]
            )
            starts = self._ends(b, net.space.has_states or b == len(net.space) - 1)
        if net.head is not None:
            shapes = {shape for cell in self.blocks[-1] for shape in cell.shapes[-1]}
            self._heads = {shape: visit(net.head, shape, ("head",))[0] for shape in shapes}
            if len(shapes) == 1:
                self.head = self._heads.pop(shapes.pop())

    def _ends(self, b: int, by_state: bool) -> dict[Hashable, Shape]:
        """The shape that block b puts out, in each state if what follows may differ by it."""
        ends: dict[Hashable, Shape] = {}
        for cell in self.blocks[b]:
            for state, shape in cell.ends():
                before = ends.setdefault(state if by_state else None, shape)
                if before != shape:
                    raise InputError(
                        f"[supernet] expected the paths of block {b} that end alike to put out one shape, "
                        f"got {before} and {shape}"
                    )
        return ends

    def fixed(self, value: Callable[[T], float]) -> float:
        """The sum of a value over the parts that no choice changes."""
        return sum(value(part) for part in (self.stem, self.head) if part is not None)

    def tables(self, value: Callable[[T], float]) -> list[list[np.ndarray]]:
        """The sum of a value along every path of every cell; a head that depends on the path counts to the last block."""
        tables = [[cell.table(value) for cell in cells] for cells in self.blocks]
        if self._heads:
            for cell, table in zip(self.blocks[-1], tables[-1]):
                heads = np.array([value(self._heads[shape]) for shape in cell.shapes[-1]], table.dtype)
                table += np.where(cell.after[-1] >= 0, heads[cell.after[-1]], 0)
        return tables


def _once(visit: Visit[T]) -> Visit[T]:
    """The same, asked once for a module that stands in several cells, which then differ only in where they start."""
    known: dict[tuple[int, Shape], tuple[T, Shape]] = {}

    def visit_once(module: nn.Module, shape: Shape, place: Place) -> tuple[T, Shape]:
        if (id(module), shape) not in known:
            known[id(module), shape] = visit(module, shape, place)
        return known[id(module), shape]

    return visit_once
