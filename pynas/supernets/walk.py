"""Values of all modules of a supernet, on every shape of their inputs, and their sums along paths."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import reduce
from typing import Any, Generic

import numpy as np
from torch import nn

from pynas.errors import InputError
from pynas.spaces import Cell
from pynas.supernets.net import Place, T, Visitor
from pynas.supernets.shapes import Shape, output_shape


class WalkedCell(Generic[T]):
    """Values of a cell's candidates on every shape that an allowed path brings them.

    values[l]: values of layer l by (candidate, index of the input's shape).
    after[l]: index of the output's shape of every prefix of l candidates, -1 where the prefix is not allowed; int
        `[c_1, ..., c_l]`.
    shapes[l]: the shapes that these indices stand for.
    """

    def __init__(
        self, cell: Cell, layers: list[list[nn.Module]], start: Shape, place: Place, visitor: Visitor[T]
    ) -> None:
        self.cell = cell
        self.values: list[dict[tuple[int, int], T]] = []
        self.after, self.shapes = [np.zeros((), np.int64)], [[start]]
        for depth, layer in enumerate(layers):
            allowed = self._allowed(len(layer))
            before = np.broadcast_to(self.after[-1][..., None], allowed.shape)
            onward = np.full((len(self.shapes[-1]), len(layer)), -1, np.int64)
            values: dict[tuple[int, int], T] = {}
            shapes: list[Shape] = []
            for k, module in enumerate(layer):
                for index in np.unique(before[..., k][allowed[..., k]]).tolist():
                    values[k, index], shape = visitor(module, self.shapes[-1][index], (*place, depth, k))
                    if shape not in shapes:
                        shapes.append(shape)
                    onward[index, k] = shapes.index(shape)
            self.values.append(values)
            self.shapes.append(shapes)
            self.after.append(np.where(allowed, onward[before, np.arange(len(layer))], -1))

    def _allowed(self, count: int) -> np.ndarray:
        """Whether the cell allows each prefix that is one candidate longer, bool `[c_1, ..., c_l, count]`."""
        allowed = np.repeat((self.after[-1] >= 0)[..., None], count, axis=-1)
        if self.cell.allowed is not None:
            for prefix in np.argwhere(allowed).tolist():
                allowed[tuple(prefix)] = self.cell.allowed(tuple(prefix))
        return allowed

    def ends(self) -> Iterator[tuple[Hashable, Shape]]:
        """Boundary states that paths leave, each with a shape of their outputs."""
        if self.cell.leaves is None:
            yield from ((None, shape) for shape in self.shapes[-1])
            return
        pairs = {(self.cell.end(path), int(self.after[-1][path])) for path in self.cell.paths()}
        yield from ((state, self.shapes[-1][index]) for state, index in pairs)

    def table(self, value: Callable[[T], float]) -> np.ndarray:
        """Sum of a value along every path, `[c_1, ..., c_L]`; 0 where a path is not allowed."""
        total = np.zeros((), np.int64)
        for layer, before, shapes, count in zip(self.values, self.after, self.shapes, self.cell.counts):
            numbers = {place: value(known) for place, known in layer.items()}
            by_shape = np.zeros((len(shapes), count), np.result_type(*map(type, numbers.values())))
            for (k, index), number in numbers.items():
                by_shape[index, k] = number
            total = total[..., None] + by_shape[before]
        return np.where(self.after[-1] >= 0, total, 0)


class Walked(Generic[T]):
    """Values of a net that runs stem, blocks and head one after the other.

    net: has `stem` and `head`, modules or None, beside `space` and `layers`. blocks: `[block][cell]`. stem, head: their
        values; None where the net has no such part, and for a head whose input depends on the path.

    Raises:
        InputError: paths of a block that leave one boundary state and put out different shapes, or a cell that no path
            leads to.
    """

    def __init__(self, net: Any, image_shape: Shape, visitor: Visitor[T]) -> None:
        visitor = _once(visitor)
        self.stem: T | None = None
        self.head: T | None = None
        self.blocks: list[list[WalkedCell[T]]] = []
        self._heads: dict[Shape, T] = {}
        shape = tuple(image_shape)
        if net.stem is not None:
            self.stem, shape = visitor(net.stem, shape, ("stem",))
        self._walk_blocks(net, shape, visitor)
        if net.head is not None:
            shapes = {shape for cell in self.blocks[-1] for shape in cell.shapes[-1]}
            self._heads = {shape: visitor(net.head, shape, ("head",))[0] for shape in shapes}
            if len(shapes) == 1:
                self.head = self._heads.pop(shapes.pop())

    def _walk_blocks(self, net: Any, shape: Shape, visitor: Visitor[T]) -> None:
        cells: dict[int, WalkedCell[T]] = {}

        def step(b: int, c: int, shape: Shape) -> Iterator[tuple[Hashable, Shape]]:
            cells[c] = WalkedCell(net.space.blocks[b][c], net.layers(b, c), shape, (b, c), visitor)
            return cells[c].ends()

        for _ in net.space.fold(shape, step, self._one_shape):
            b = len(self.blocks)
            if len(cells) < len(net.space.blocks[b]):
                raise InputError(f"[supernet] expected a path into every cell of block {b}, got paths into the cells "
                                 f"{sorted(cells)} of {len(net.space.blocks[b])}; remove the others")  # fmt: skip
            self.blocks.append([cells[c] for c in sorted(cells)])
            cells.clear()

    def _one_shape(self, first: Shape, second: Shape) -> Shape:
        if first != second:
            raise InputError(
                f"[supernet] expected the paths of block {len(self.blocks)} that end alike to put out one shape, "
                f"got {first} and {second}"
            )
        return first

    def fixed(self, value: Callable[[T], float]) -> float:
        """Sum of a value over the modules that every architecture runs."""
        return sum(value(part) for part in (self.stem, self.head) if part is not None)

    def tables(self, value: Callable[[T], float]) -> list[list[np.ndarray]]:
        """Sum of a value along every path of every cell; a head that depends on the path counts to the last block."""
        tables = [[cell.table(value) for cell in cells] for cells in self.blocks]
        if self._heads:
            for cell, table in zip(self.blocks[-1], tables[-1]):
                heads = np.array([value(self._heads[shape]) for shape in cell.shapes[-1]], table.dtype)
                table += np.where(cell.after[-1] >= 0, heads[cell.after[-1]], 0)
        return tables

    def placed(self) -> Iterator[tuple[T, Place]]:
        """A value of every module with its place, whatever the shapes of its input."""
        heads = [head for head in (self.head, *self._heads.values()) if head is not None]
        yield from ((part, ("stem",)) for part in (self.stem,) if part is not None)
        for b, cells in enumerate(self.blocks):
            for c, cell in enumerate(cells):
                for n, values in enumerate(cell.values):
                    yield from ((value, (b, c, n, k)) for k, value in {k: v for (k, _), v in values.items()}.items())
        yield from ((head, ("head",)) for head in heads[:1])


def walk_shapes(net: Any, image_shape: Shape) -> Walked[None]:
    """Walk a net for the shapes alone, which every cell holds in `shapes`."""
    return Walked(net, image_shape, lambda module, shape, _: (None, output_shape(module, shape)))


class GraphWalk(Generic[T]):
    """Values of a net of one cell whose candidates stand in several places; a candidate's value is the sum over them.

    counts: candidates per layer. values: (value, place) of every module.
    """

    def __init__(self, counts: Sequence[int], values: Sequence[tuple[T, Place]]) -> None:
        self._counts, self._values = counts, values

    def fixed(self, value: Callable[[T], float]) -> float:
        """Sum of a value over the modules that every architecture runs."""
        return sum(value(known) for known, place in self._values if isinstance(place[0], str))

    def tables(self, value: Callable[[T], float]) -> list[list[np.ndarray]]:
        """Sum of a value along every path."""
        numbers = [(value(known), place) for known, place in self._values if not isinstance(place[0], str)]
        layers = [np.zeros(count, np.result_type(*(type(number) for number, _ in numbers))) for count in self._counts]
        for number, (_, _, layer, candidate) in numbers:
            layers[layer][candidate] += number
        return [[reduce(np.add.outer, layers)]]

    def placed(self) -> Iterator[tuple[T, Place]]:
        """A value of every module with its place."""
        return iter(self._values)


class LayerWalk(Generic[T]):
    """Values of a net of one block whose stem and head depend on the cell, and whose cells may have too many paths for tables.

    ends: values of stem and head, per cell. layers: values `[cell][layer][candidate]`.
    """

    def __init__(self, ends: Sequence[Sequence[T]], layers: Sequence[Sequence[Sequence[T]]]) -> None:
        self._ends, self._layers = ends, layers

    def fixed(self, value: Callable[[T], float]) -> float:
        """0: every architecture has the stem and the head of its cell."""
        return 0

    def tables(self, value: Callable[[T], float]) -> list[list[np.ndarray]]:
        """Sum of a value along every path, with the stem and the head of its cell."""
        return [[reduce(np.add.outer, layers) + fixed for fixed, layers in zip(*self.by_layer(value))]]

    def by_layer(self, value: Callable[[T], float]) -> tuple[list[float], list[np.ndarray]]:
        """Sum of a value over stem and head, and a value per candidate, `[layers, candidates]`; both per cell."""
        layers = [np.array([[value(known) for known in layer] for layer in cell]) for cell in self._layers]
        return [sum(map(value, ends)) for ends in self._ends], layers

    def placed(self) -> Iterator[tuple[T, Place]]:
        """A value of every module with its place; stem and head have the places ("stem", cell) and ("head", cell)."""
        for c, (ends, layers) in enumerate(zip(self._ends, self._layers)):
            yield from zip(ends, (("stem", c), ("head", c)))
            yield from ((value, (0, c, n, k)) for n, layer in enumerate(layers) for k, value in enumerate(layer))


def _once(visitor: Visitor[T]) -> Visitor[T]:
    """Visitor that is called once for a module that stands in several cells, which differ only in where they start."""
    known: dict[tuple[int, Shape], tuple[T, Shape]] = {}

    def visit_once(module: nn.Module, shape: Shape, place: Place) -> tuple[T, Shape]:
        if (id(module), shape) not in known:
            known[id(module), shape] = visitor(module, shape, place)
        return known[id(module), shape]

    return visit_once
