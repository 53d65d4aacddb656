"""One tree of all paths of a block: its cells, of different depth, side by side, so that one rating covers the block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pynas.rating import ScoreTable
from pynas.spaces import Cell, Choice
from pynas.supernets import Supernet
from pynas.supernets.walk import walk_shapes

Layers = list[list[nn.Module]]


@dataclass(frozen=True)
class BlockTree:
    """Layers as the rating engine takes them, `[layer][candidate]`, and the path of each choice through them."""

    layers: Layers
    paths: Mapping[Choice, tuple[int, ...]]

    def scores(self, table: ScoreTable) -> dict[Choice, float]:
        """Scores by choice, read from a table of this tree."""
        return {choice: table[path] for choice, path in self.paths.items()}


def block_tree(net: Supernet, block: int, choices: Sequence[Choice]) -> BlockTree:
    """Build the tree of some choices of a block.

    Layer l holds the candidates of layer l of every cell, one after the other; a shorter cell continues with identities.
    The stem is a layer before those of the first block.
    """
    cells = {choice.cell: net.layers(block, choice.cell) for choice in choices}
    depth = max(len(layers) for layers in cells.values())
    layers: Layers = [[] for _ in range(depth)]
    offsets: dict[int, list[int]] = {}
    for c, own in sorted(cells.items()):
        offsets[c] = [len(layer) for layer in layers]
        for level, layer in enumerate(layers):
            layer.extend(own[level] if level < len(own) else [nn.Identity()])
    paths = {}
    for choice in choices:
        path = [*choice.path, *[0] * (depth - len(choice.path))]
        paths[choice] = tuple(offset + candidate for offset, candidate in zip(offsets[choice.cell], path))
    if block == 0 and net.stem is not None:
        layers = [[net.stem], *layers]
        paths = {choice: (0, *path) for choice, path in paths.items()}
    return BlockTree(layers, paths)


def split_scores(cells: Sequence[Cell], scores: Mapping[Choice, float], **metadata: object) -> list[ScoreTable]:
    """Scores by choice as a table per cell.

    A cell without any score takes the scores of a rated cell of the same candidates: the cells of a space of slimmable
    layers differ only in the width they start from, and BossNAS rates one of the widths.
    """
    of_cell: list[dict[tuple[int, ...], float]] = [{} for _ in cells]
    for choice, score in scores.items():
        of_cell[choice.cell][choice.path] = score
    rated = [c for c, known in enumerate(of_cell) if known]
    for c, cell in enumerate(cells):
        twin = next((r for r in rated if cells[r].layers == cell.layers and not cell.allowed), None)
        if c not in rated and twin is not None:
            of_cell[c] = of_cell[twin]
    return [
        ScoreTable.of_paths(cell.counts, list(known), list(known.values()), dict(metadata))
        for cell, known in zip(cells, of_cell)
    ]


def block_widths(net: Supernet, image_shape: tuple[int, int, int]) -> list[dict[int, int]]:
    """Numbers of channels that the paths of each block can end with, ascending, each with the stride to the smallest map.

    Where paths of one width end with maps of several sizes, the stride is that of their smallest.
    """
    walked = walk_shapes(net, image_shape)
    blocks = []
    for cells in walked.blocks:
        sides: dict[int, int] = {}
        for shape in {shape for cell in cells for shape in cell.shapes[-1]}:
            side = shape[1] if len(shape) == 3 else 1
            sides[shape[0]] = min(side, sides.get(shape[0], side))
        smallest = max(1, min(sides.values()))
        blocks.append({width: max(1, round(sides[width] / smallest)) for width in sorted(sides)})
    return blocks
