"""The supernet of NAS-Bench-201: every operation of every edge of every cell, with weights of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.nn.batch_norm import NormSequential
from pynas.nn.cell import ResidualReduction, Zero, edge_operation
from pynas.nn.drop import dropped
from pynas.spaces import Architecture, Choice, Space
from pynas.spaces.nasbench201 import EDGES, CellNetSpec
from pynas.supernets.net import Place, T, Visitor
from pynas.supernets.shapes import Shape, output_shape
from pynas.supernets.walk import GraphWalk

Path = tuple[int, ...]


class SharedCell(nn.Module):
    """All operations of a cell, `edges[e][candidate]`; a path runs one operation per edge."""

    def __init__(self, edges: Sequence[Sequence[str]], channels: int):
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(edge_operation(op, channels) for op in ops) for ops in edges)

    def chosen(self, path: Path) -> list[nn.Module]:
        """Operation that a path runs on each edge."""
        return [edge[candidate] for edge, candidate in zip(self.edges, path)]  # type: ignore[index]

    def forward(self, x: torch.Tensor, path: Path) -> torch.Tensor:
        """x: [B, C, H, W] -> a tensor of that shape."""
        return run_cell(self.chosen(path), x)


class PlainCell(nn.Module):
    """A cell with one operation per edge. Beside a skip, the other edges into a node are residual branches."""

    def __init__(self, edges: Sequence[nn.Module]):
        super().__init__()
        self.edges = nn.ModuleList(edges)
        if branches(edges):
            self.drop_path: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> a tensor of that shape."""
        return run_cell(list(self.edges), x, getattr(self, "drop_path", None))


def branches(operations: Sequence[nn.Module]) -> set[int]:
    """Edges that lead into a node beside a skip."""
    shortcuts = {target for (_, target), operation in zip(EDGES, operations) if isinstance(operation, nn.Identity)}
    return {edge for edge, ((_, target), operation) in enumerate(zip(EDGES, operations))
            if target in shortcuts and not isinstance(operation, (nn.Identity, Zero))}  # fmt: skip


def run_cell(operations: Sequence[nn.Module], x: torch.Tensor, drop_path: nn.Module | None = None) -> torch.Tensor:
    """Run the graph: node 0 is the input, every other node the sum over its incoming edges, the last node the output.

    drop_path: runs on the output of each residual branch, see `branches`.
    """
    residual = set() if drop_path is None else branches(operations)
    nodes: list[torch.Tensor | None] = [x, None, None, None]
    for edge, ((source, target), operation) in enumerate(zip(EDGES, operations)):
        if isinstance(operation, Zero):
            continue
        value, total = nodes[source], nodes[target]
        # A node without incoming edges is zero; an operation on it still adds its batch norm's bias.
        value = operation(torch.zeros_like(x) if value is None else value)
        value = dropped(value, drop_path if edge in residual else None)
        nodes[target] = value if total is None else total + value
    return torch.zeros_like(x) if nodes[-1] is None else nodes[-1]


class CellNet(nn.Module):
    """Stem, cells with reductions between the stages, head; a `Net`.

    An architecture is one path of six candidates, which every cell runs with weights of its own.
    """

    def __init__(self, space: Space, num_classes: int):
        super().__init__()
        spec: CellNetSpec = space.stem
        edges = [[candidate.op for candidate in layer] for layer in space.blocks[0][0].layers]
        channels = spec.channels
        self.space = space
        self.stem = NormSequential(nn.Conv2d(3, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]))
        body: list[nn.Module] = []
        for stage, width in enumerate(channels):
            if stage:
                body.append(ResidualReduction(channels[stage - 1], width))
            body += [SharedCell(edges, width) for _ in range(spec.n)]
        self.body = nn.ModuleList(body)
        width = channels[-1]
        self.head = NormSequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_classes)

    @property
    def cells(self) -> list[SharedCell]:
        """Cells from the stem to the head."""
        return [part for part in self.body if isinstance(part, SharedCell)]

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Not for this net, whose candidates run on a graph and not one layer after the other.

        Raises:
            InputError: always.
        """
        raise InputError(f"[supernet] expected a supernet whose layers run one after the other, got {self.space.name}; "
                         "rate whole architectures with pynas.evaluation")  # fmt: skip

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Cells with one operation per edge, which share this net's weights, and the reductions, in their order."""
        return [PlainCell(part.chosen(choice.path)) if isinstance(part, SharedCell) else part for part in self.body]

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """images: [B, 3, H, W] -> the stem's output."""
        return self.stem(images)

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""
        reductions = [part for part in self.body if not isinstance(part, SharedCell)]
        operations = [operation for cell in self.cells for operation in cell.chosen(architecture[0].path)]
        return [self.stem, *reductions, self.head, self.classifier, *operations]

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> input of the classifier, `[B, D]`."""
        x = self.stem(images)
        for part in self.body:
            x = part(x, architecture[0].path) if isinstance(part, SharedCell) else part(x)
        return self.head(x)

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> logits `[B, classes]`."""
        return self.classifier(self.features(images, architecture))

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Sequential:
        """One architecture as a plain network with a copy of the weights; image_shape is not used.

        Raises:
            InputError: an architecture outside the space.
        """
        path = self.space.resolve(architecture)[0].path
        parts = OrderedDict(
            (name, PlainCell(part.chosen(path)) if isinstance(part, SharedCell) else part)
            for name, part in self._named_parts()
        )
        return copy_module(nn.Sequential(parts), plain=True).train(self.training)

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> GraphWalk[T]:
        """Call `visitor` for every module; a candidate has the place (0, 0, edge, candidate) in every cell."""
        placed = self._placed(tuple(image_shape))
        return GraphWalk(self.space.blocks[0][0].counts, [(visitor(*one)[0], one[2]) for one in placed])

    def _placed(self, shape: Shape) -> Iterator[tuple[nn.Module, Shape, Place]]:
        """Every module but `none`, with its input's shape and its place."""
        for name, part in self._named_parts():
            if isinstance(part, SharedCell):
                candidates = [(e, k, op) for e, edge in enumerate(part.edges) for k, op in enumerate(edge)]  # type: ignore
                yield from ((op, shape, (0, 0, e, k)) for e, k, op in candidates if not isinstance(op, Zero))
            else:
                yield part, shape, (name,)
                shape = output_shape(part, shape)

    def _named_parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Parts in the order in which they run."""
        yield "stem", self.stem
        yield from ((f"part_{number}", part) for number, part in enumerate(self.body, 1))
        yield from (("head", self.head), ("classifier", self.classifier))
