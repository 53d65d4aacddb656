"""Cells that are graphs, as layers of candidates for `rate`: each edge is a layer, and the operations on it are its candidates.

Paths that begin alike then share the nodes computed so far. Between two layers one tensor passes, in which the nodes that are
still needed are packed: nodes of equal height and width side by side on axis 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.supernets.shapes import Shape, extracted, is_view, trial

Edge = tuple[int, int]
Join = Callable[[Tensor, Tensor], Tensor]


def dag(
    edges: Mapping[Edge, Sequence[nn.Module]],
    shapes: Shape | Sequence[Shape],
    *,
    output: int | Sequence[int] | None = None,
    join: Join = torch.add,
) -> list[list[nn.Module]]:
    """Return the layers of a cell whose edges `(source, target)` hold operations; a path chooses one operation per edge.

    Layer l is edge number l of `edges`; an edge that stands before another one into its source waits for that. Every
    operation is a module like any other, "none" (zeros) too, and an edge with one operation is fixed: its choice is 0.

        cell = {(0, 1): ops(), (0, 2): ops(), (1, 2): ops(), (0, 3): ops(), (1, 3): ops(), (2, 3): ops()}   # NAS-Bench-201
        table = pynas.rate(dag(cell, (16, 32, 32)), batches)                                    # all 5^6 structures

        edges = {(-2, 0): [cell.preprocess0], (-1, 1): [cell.preprocess1]}                      # DARTS
        edges |= {(source, target): ops() for target in range(2, 6) for source in range(target)}
        layers = dag(edges, [s0.shape[1:], s1.shape[1:]], output=(2, 3, 4, 5))
        table = pynas.rate(layers, [(pack(s0, s1), target)], paths=[(0, 0, *genotype), ...])    # sampled: 8^14 are too many

    Where a genotype has two edges per node, the other edges have "none". Cells follow each other as layers do:
    `[*dag(...), *dag(...)]`; with `output=(-1, 2, 3, 4, 5)` a cell also passes on its input -1, packed with the joined nodes as
    `pack(s1, torch.cat([n2, n3, n4, n5], 1))`.

    Args:
        edges: operations by edge; nodes are whole numbers, and those that no edge leads into are the inputs.
        shapes: shape `(C, ...)` of the input node, without the batch axis, or of each in ascending order. The layers take the
            input itself, or where there are several, all of them by `pack`.
        output: nodes that the last layer puts out, packed in this order: concatenated on axis 1 where they are of one height
            and width. None: the node that no edge leaves.
        join: joins what two edges bring into a node, in the order of the layers: `torch.add`, `torch.maximum`,
            `lambda a, b: torch.cat([a, b], 1)`, ...

    Raises:
        InputError: a cycle, a node that leads to no output, other shapes than inputs, operations of an edge that give different
            shapes, or a module that does not run; the message names the edge and the candidate.
    """
    edges = {edge: list(candidates) for edge, candidates in _checked(edges).items()}
    inputs = sorted({source for source, _ in edges} - {target for _, target in edges})
    sizes = _input_shapes(inputs, shapes)
    order = _ordered(list(edges), inputs)
    outputs = _outputs(order, inputs, output)
    nodes = dict(zip(inputs, sizes))
    layers: list[list[nn.Module]] = []
    for number, (source, target) in enumerate(order):
        before = Packing(tuple(nodes.items()))
        needed = {node for node, _ in order[number + 1 :]} | {target, *outputs}
        found = [
            _Operation.of(candidate, nodes[source], source in needed, f"candidate {k} of the edge {(source, target)}")
            for k, candidate in enumerate(edges[source, target])
        ]
        shape = _one_shape((source, target), [operation.shape for operation in found])
        nodes[target] = _joined((source, target), join, nodes.get(target), shape)
        nodes = {node: size for node, size in nodes.items() if node in needed}
        if number + 1 == len(order):
            nodes = {node: nodes[node] for node in outputs}
        after = Packing(tuple(nodes.items()))
        layers.append([_layer(operation, (source, target), before, after, join) for operation in found])
    return layers


def pack(*nodes: Tensor) -> Tensor:
    """Pack the inputs of a graph, `[B, C, ...]` each, into the one tensor that its layers take.

    Nodes of equal dimensions after C are concatenated on axis 1; where these differ, nodes of equal ones are, and each group is
    flattened: `[B, all numbers]`.
    """
    return Packing(tuple(enumerate(tuple(node.shape[1:]) for node in nodes))).pack(dict(enumerate(nodes)))


@dataclass(frozen=True)
class Packing:
    """Nodes in one tensor; nodes: (number, shape without the batch axis) of each, in their order."""

    nodes: tuple[tuple[int, Shape], ...]

    def __deepcopy__(self, memo: dict[int, object]) -> Packing:
        return self  # it never changes, and the engine copies modules often

    @property
    def _groups(self) -> dict[Shape, list[tuple[int, Shape]]]:
        groups: dict[Shape, list[tuple[int, Shape]]] = {}
        for node, shape in self.nodes:
            groups.setdefault(shape[1:], []).append((node, shape))
        return groups

    def pack(self, values: Mapping[int, Tensor]) -> Tensor:
        """Pack the nodes' values, `[B, ...]` each."""
        parts = [_cat([values[node] for node, _ in group]) for group in self._groups.values()]
        return parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], 1)

    def unpack(self, x: Tensor) -> dict[int, Tensor]:
        """Return the nodes' values, views of x."""
        groups = self._groups
        channels = {dims: [shape[0] for _, shape in group] for dims, group in groups.items()}
        parts = {next(iter(groups)): x}
        if len(groups) > 1:
            sizes = {dims: torch.Size((sum(counts), *dims)) for dims, counts in channels.items()}
            flat = x.split([size.numel() for size in sizes.values()], 1)
            parts = {dims: flat[i].unflatten(1, size) for i, (dims, size) in enumerate(sizes.items())}
        values: dict[int, Tensor] = {}
        for dims, group in groups.items():
            views = [parts[dims]] if len(group) == 1 else parts[dims].split(channels[dims], 1)
            values |= {node: views[i] for i, (node, _) in enumerate(group)}
        return values


def _cat(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(values, 1)


class EdgeOperation(nn.Module):
    """One operation on an edge, from the packed nodes before it to the packed nodes after it."""

    def __init__(
        self, operation: nn.Module, edge: Edge, before: Packing, after: Packing, join: Join, copy: bool
    ) -> None:
        super().__init__()
        self.operation, self.join = operation, join
        self._edge, self._before, self._after, self._copy = edge, before, after, copy

    def forward(self, x: Tensor) -> Tensor:
        """x: packed nodes `[B, ...]` -> packed nodes `[B, ...]`."""
        source, target = self._edge
        values = self._before.unpack(x)
        value = self.operation(values[source].clone() if self._copy else values[source])
        values[target] = self.join(values[target], value) if target in values else value
        return self._after.pack(values)


class SharedEdgeOperation(nn.Module):
    """An edge's operation that shares its weights: `extract` gives a plain one with copies of its slices."""

    def __init__(self, edge: EdgeOperation, shape: Shape) -> None:
        super().__init__()
        self.edge, self._shape = edge, shape

    def forward(self, x: Tensor) -> Tensor:
        """x: packed nodes `[B, ...]` -> packed nodes `[B, ...]`."""
        return self.edge(x)

    def extract(self, shape: Shape) -> EdgeOperation:
        """Return the edge with the operation's plain module; the nodes' shapes are those that the graph was made for."""
        edge = self.edge
        return EdgeOperation(
            extracted(edge.operation, self._shape), edge._edge, edge._before, edge._after, edge.join, edge._copy
        )


@dataclass(frozen=True)
class _Operation:
    """A candidate of an edge, the shapes of its input and output, and whether it needs a copy of the node it reads."""

    module: nn.Module
    taken: Shape
    shape: Shape
    copy: bool

    @classmethod
    def of(cls, module: nn.Module, shape: Shape, shared: bool, name: str) -> _Operation:
        """Run a copy of a module once; shared: the node is read again, so that the module must not write to it."""

        def run(subject: nn.Module, x: Tensor) -> tuple[Shape, bool]:
            version, y = x._version, subject(x)
            if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != len(x):
                got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
                raise InputError(
                    f"[dag] expected {name} to put out a tensor [B, C, ...], got {got} for {len(x)} samples"
                )
            return tuple(y.shape[1:]), x._version != version

        try:
            after, writes = trial(module, shape, run)
        except InputError as error:
            message = str(error)
            raise InputError(message if name in message else f"{message} ({name})") from error
        return cls(module, shape, after, writes and shared)


def _layer(operation: _Operation, edge: Edge, before: Packing, after: Packing, join: Join) -> nn.Module:
    layer = EdgeOperation(operation.module, edge, before, after, join, operation.copy)
    return SharedEdgeOperation(layer, operation.taken) if is_view(operation.module) else layer


def _one_shape(edge: Edge, shapes: Sequence[Shape]) -> Shape:
    for candidate, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise InputError(f"[dag] expected the candidates of the edge {edge} to put out one shape, got "
                             f"{list(shapes[0])} of candidate 0 and {list(shape)} of candidate {candidate}; give each the "
                             "edge's stride and channels")  # fmt: skip
    return shapes[0]


def _joined(edge: Edge, join: Join, known: Shape | None, shape: Shape) -> Shape:
    """Shape of a node after an edge into it."""
    if known is None:
        return shape
    try:
        return tuple(join(*(torch.empty(1, *size, device="meta") for size in (known, shape))).shape[1:])
    except Exception as error:
        raise InputError(f"[dag] expected the edge {edge} to fit the other edges into node {edge[1]}, {list(known)}, got "
                         f"{list(shape)}; give all edges into a node one shape") from error  # fmt: skip


def _checked(edges: Mapping[Edge, Sequence[nn.Module]]) -> Mapping[Edge, Sequence[nn.Module]]:
    if not isinstance(edges, Mapping) or not edges:
        raise InputError(f"[dag] expected a mapping from edges (source, target) to lists of modules, got {edges!r}")
    for edge, candidates in edges.items():
        if not (isinstance(edge, tuple) and len(edge) == 2 and all(isinstance(node, int) for node in edge)):
            raise InputError(f"[dag] expected edges (source, target) of two whole numbers, got {edge!r}")
        modules = isinstance(candidates, Iterable) and [isinstance(each, nn.Module) for each in candidates]
        if not modules or not all(modules):
            raise InputError(
                f"[dag] expected a list of at least one module on the edge {edge}, got {candidates!r:.100}"
            )
    return edges


def _input_shapes(inputs: Sequence[int], shapes: Shape | Sequence[Shape]) -> list[Shape]:
    one = all(isinstance(size, int) for size in shapes)
    sizes = [tuple(shape) for shape in cast(Sequence[Shape], [shapes] if one else shapes)]
    if inputs and len(sizes) != len(inputs):
        raise InputError(f"[dag] expected a shape for each of the nodes {inputs}, which no edge leads into, got {len(sizes)}; "
                         "they are the inputs, in this order")  # fmt: skip
    if not all(sizes):
        raise InputError(f"[dag] expected shapes (C, ...) of the inputs, got {shapes}")
    return sizes


def _ordered(edges: list[Edge], inputs: Sequence[int]) -> list[Edge]:
    """Edges in their order, each after all edges into its source."""
    order: list[Edge] = []
    left = list(edges)
    while left:
        waiting = {target for _, target in left}
        free = next((edge for edge in left if edge[0] not in waiting), None)
        if free is None:
            raise InputError(f"[dag] expected a graph without cycles, got one among the edges {left}")
        left.remove(free)
        order.append(free)
    return order


def _outputs(order: Sequence[Edge], inputs: Sequence[int], output: int | Sequence[int] | None) -> list[int]:
    """Nodes that the graph puts out; every edge leads to one."""
    nodes = {node for edge in order for node in edge}
    ends = sorted(nodes - {source for source, _ in order})
    if output is None and len(ends) > 1:
        raise InputError(f"[dag] expected output= for a graph of several nodes that no edge leaves, got {ends} and no output; "
                         f"output={tuple(ends)} puts out all of them")  # fmt: skip
    outputs = ends if output is None else [output] if isinstance(output, int) else list(output)
    unknown = [node for node in outputs if node not in nodes]
    if unknown or len(set(outputs)) != len(outputs) or not outputs:
        raise InputError(f"[dag] expected different nodes of {sorted(nodes)} as output, got {output!r}")
    lost = [node for node in ends if node not in outputs]
    if lost:
        raise InputError(f"[dag] expected every node to lead to the output {outputs}, got node {lost[0]}, which no edge "
                         "leaves; remove the edges into it, or put it out too")  # fmt: skip
    return outputs
