"""The supernet of NAS-Bench-201: every operation of every edge of every cell, with weights of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from pynas.nn.cell import ResidualReduction, Zero, edge_operation
from pynas.spaces import Architecture, Space
from pynas.spaces.nasbench201 import EDGES, CellNetSpec
from pynas.supernets.shapes import output_shape

Shape = tuple[int, ...]
Path = tuple[int, ...]


class SharedCell(nn.Module):
    """All operations of a cell; a path runs one per edge. `edges[e][candidate]`."""

    def __init__(self, edges: Sequence[Sequence[str]], channels: int):
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(edge_operation(op, channels) for op in ops) for ops in edges)

    def chosen(self, path: Path) -> list[nn.Module]:
        """The operation that each edge runs."""
        return [edge[candidate] for edge, candidate in zip(self.edges, path)]  # type: ignore[index]

    def forward(self, x: torch.Tensor, path: Path) -> torch.Tensor:
        """x: [B, C, H, W] -> the same shape."""
        return run_cell(self.chosen(path), x)


class PlainCell(nn.Module):
    """A cell with one operation per edge."""

    def __init__(self, edges: Sequence[nn.Module]):
        super().__init__()
        self.edges = nn.ModuleList(edges)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] -> the same shape."""
        return run_cell(list(self.edges), x)


def run_cell(operations: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """Node 0 is the input; every other one is the sum of what its edges bring; the last one is the output."""
    nodes: list[torch.Tensor | None] = [x, None, None, None]
    for (source, target), operation in zip(EDGES, operations):
        if isinstance(operation, Zero):
            continue
        value, so_far = nodes[source], nodes[target]
        # Nothing is zeros: an operation on them still adds its batch norm's bias.
        value = operation(torch.zeros_like(x) if value is None else value)
        nodes[target] = value if so_far is None else so_far + value
    return torch.zeros_like(x) if nodes[-1] is None else nodes[-1]


class CellNet(nn.Module):
    """Stem, cells with reductions between the stages, head; `forward(images, architecture)`.

    The architecture is one path of six candidates, the same in every cell; each cell has weights of its own.
    """

    def __init__(self, space: Space, num_classes: int):
        super().__init__()
        spec: CellNetSpec = space.stem
        edges = [[candidate.op for candidate in layer] for layer in space.blocks[0][0].layers]
        channels = spec.channels
        self.space = space
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]))
        body: list[nn.Module] = []
        for stage, width in enumerate(channels):
            if stage:
                body.append(ResidualReduction(channels[stage - 1], width))
            body += [SharedCell(edges, width) for _ in range(spec.n)]
        self.body = nn.ModuleList(body)
        width = channels[-1]
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_classes)

    @property
    def cells(self) -> list[SharedCell]:
        """The cells from the images to the head."""
        return [part for part in self.body if isinstance(part, SharedCell)]

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Everything that runs for an architecture, and nothing else."""
        fixed = [
            self.stem,
            *(part for part in self.body if not isinstance(part, SharedCell)),
            self.head,
            self.classifier,
        ]
        return fixed + [operation for cell in self.cells for operation in cell.chosen(architecture[0].path)]

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> what the classifier reads, `[B, D]`."""
        x = self.stem(images)
        for part in self.body:
            x = part(x, architecture[0].path) if isinstance(part, SharedCell) else part(x)
        return self.head(x)

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> logits `[B, classes]`."""
        return self.classifier(self.features(images, architecture))

    def extract(self, architecture: Architecture) -> nn.Sequential:
        """One architecture as a plain network with a copy of the weights."""
        path = architecture[0].path
        parts = OrderedDict(
            (name, PlainCell(part.chosen(path)) if isinstance(part, SharedCell) else part)
            for name, part in self.named_parts()
        )
        return copy.deepcopy(nn.Sequential(parts))

    def placed(self, image_shape: Shape) -> Iterator[tuple[nn.Module, Shape, tuple]]:
        """Every module with its input's shape and its place, (0, 0, edge, candidate) or a name where nothing is chosen."""
        shape = tuple(image_shape)
        for name, part in self.named_parts():
            if isinstance(part, SharedCell):
                candidates = [(e, k, op) for e, edge in enumerate(part.edges) for k, op in enumerate(edge)]  # type: ignore
                yield from ((op, shape, (0, 0, e, k)) for e, k, op in candidates if not isinstance(op, Zero))
            else:
                yield part, shape, (name,)
                shape = output_shape(part, shape)

    def named_parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts in the order in which they run."""
        yield "stem", self.stem
        yield from ((f"part_{number}", part) for number, part in enumerate(self.body, 1))
        yield from (("head", self.head), ("classifier", self.classifier))
