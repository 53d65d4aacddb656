"""A search space: blocks of alternative cells of layers of candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice


@dataclass(frozen=True)
class Cell:
    """Layers in sequence; `layers[l]` holds the candidates of layer l, each a plain description of a module."""

    layers: tuple[tuple[Any, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Candidates per layer."""
        return tuple(len(candidates) for candidates in self.layers)

    @property
    def size(self) -> int:
        """Number of paths."""
        return math.prod(self.counts)


@dataclass(frozen=True)
class Space:
    """A product space: every architecture is a (cell, path) per block, chosen freely.

    blocks: `blocks[b]` holds the alternative cells of block b.
    stem, head: descriptions of the parts around the blocks that no choice changes, None where there are none.
    image_size: side in pixels of the square images that the space is meant for.
    """

    name: str
    blocks: tuple[tuple[Cell, ...], ...]
    stem: Any = None
    head: Any = None
    image_size: int = 224

    @classmethod
    def from_counts(cls, name: str, counts: Sequence[Sequence[Sequence[int]]]) -> Space:
        """A space that only knows how many candidates `counts[b][cell][layer]` there are."""
        return cls(name, tuple(tuple(Cell(tuple(tuple(range(n)) for n in cell)) for cell in block) for block in counts))

    @property
    def path_counts(self) -> tuple[int, ...]:
        """Paths per block, over all its cells."""
        return tuple(sum(cell.size for cell in cells) for cells in self.blocks)

    @property
    def size(self) -> int:
        """Number of architectures, exactly."""
        return math.prod(self.path_counts)

    def __len__(self) -> int:
        return len(self.blocks)

    def __contains__(self, architecture: Architecture) -> bool:
        try:
            self.check(architecture)
        except InputError:
            return False
        return True

    def paths(self, block: int) -> Iterator[Choice]:
        """All choices of a block, by cell, then lexicographically."""
        for c, cell in enumerate(self.blocks[block]):
            for path in np.ndindex(*cell.counts):
                yield Choice(c, path)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """An architecture drawn uniformly from the whole space."""
        choices = []
        for cells in self.blocks:
            sizes = np.array([cell.size for cell in cells], dtype=np.float64)
            c = int(rng.choice(len(cells), p=sizes / sizes.sum()))
            choices.append((c, rng.integers(0, cells[c].counts)))
        return Architecture.of(choices)

    def parse(self, text: str) -> Architecture:
        """Read an architecture's string form and check it.

        Raises:
            InputError: not of the form, or not in this space.
        """
        architecture = Architecture.parse(text)
        self.check(architecture)
        return architecture

    def check(self, architecture: Architecture) -> None:
        """Raise InputError where an architecture is not in this space, naming the block and the rule."""
        if len(architecture) != len(self.blocks):
            raise InputError(
                f"[{self.name}] expected an architecture of {len(self.blocks)} blocks, got {len(architecture)} "
                f"in {str(architecture)!r}"
            )
        for b, (choice, cells) in enumerate(zip(architecture, self.blocks)):
            if not 0 <= choice.cell < len(cells):
                raise InputError(f"[{self.name}] expected a cell from 0 to {len(cells) - 1} in block {b}, "
                                 f"got {choice.cell} in {str(architecture)!r}")  # fmt: skip
            counts = cells[choice.cell].counts
            if len(choice.path) != len(counts):
                raise InputError(f"[{self.name}] expected {len(counts)} layers in cell {choice.cell} of block {b}, "
                                 f"got {len(choice.path)} in {str(architecture)!r}")  # fmt: skip
            for layer, (candidate, count) in enumerate(zip(choice.path, counts)):
                if not 0 <= candidate < count:
                    raise InputError(f"[{self.name}] expected a candidate from 0 to {count - 1} in layer {layer} of "
                                     f"block {b}, got {candidate} in {str(architecture)!r}")  # fmt: skip

    def __str__(self) -> str:
        return self.name
