"""A search space: blocks of alternative cells of layers of candidates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice

Path = tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """Layers in sequence; `layers[l]` holds the candidates of layer l, each a plain description of a module.

    allowed: called with every prefix of a path and with whole paths; False forbids every path that begins with the prefix.
        None allows all paths.
    start: the boundary state that the cell continues from; None continues from any.
    leaves: called with a path, returns the boundary state that the path leaves for the next block; None leaves none.

    A space whose blocks depend on each other has, in each block, a cell for every state that the block can start from.
    """

    layers: tuple[tuple[Any, ...], ...]
    allowed: Callable[[Path], bool] | None = None
    start: Hashable = None
    leaves: Callable[[Path], Hashable] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Candidates per layer."""
        return tuple(len(candidates) for candidates in self.layers)

    @cached_property
    def size(self) -> int:
        """Number of paths."""
        return math.prod(self.counts) if self.allowed is None else sum(1 for _ in self.paths())

    @cached_property
    def ends(self) -> Counter[Hashable]:
        """Number of paths by the boundary state that they leave."""
        return Counter({None: self.size}) if self.leaves is None else Counter(map(self.leaves, self.paths()))

    def end(self, path: Path) -> Hashable:
        """Boundary state that a path leaves for the next block; None where the space has no states."""
        return None if self.leaves is None else self.leaves(path)

    def follows(self, state: Hashable) -> bool:
        """Whether the cell can continue from a boundary state; None stands for any state."""
        return state is None or self.start is None or self.start == state

    def paths(self) -> Iterator[Path]:
        """All allowed paths in lexicographic order."""
        yield from np.ndindex(*self.counts) if self.allowed is None else self._extended(())

    def allows(self, path: Path) -> bool:
        """Whether the rule allows a path and all its prefixes."""
        return self.allowed is None or all(self.allowed(path[:depth]) for depth in range(1, len(path) + 1))

    def _extended(self, prefix: Path) -> Iterator[Path]:
        if len(prefix) == len(self.layers):
            yield prefix
            return
        for candidate in range(len(self.layers[len(prefix)])):
            longer = (*prefix, candidate)
            if self.allowed is None or self.allowed(longer):
                yield from self._extended(longer)


@dataclass(frozen=True)
class Notation:
    """The field's own string form of a space's architectures.

    read: gives None for a text that is not of this form.
    """

    write: Callable[[Architecture], str]
    read: Callable[[str], Architecture | None]


@dataclass(frozen=True)
class Space:
    """A search space: an architecture is a (cell, path) per block, where each cell starts from the state the last block left.

    blocks: `blocks[b]` holds the alternative cells of block b.
    stem, head: descriptions of the parts around the blocks that no choice changes, None where there are none.
    image_size: side in pixels of the square images that the space is meant for.
    notation: how architectures are written; None for blocks of digits (`Architecture`).
    describe: called with the space and an architecture, returns its choices in the field's words, for JSON; None where the
        notation already does.
    kind: the family of the space ("mbconv", "hytra", "autoformer", ...), which decides how its supernet is built and
        counted; "own" for a space of the user's modules.

    Raises:
        InputError: a block where some cells start from a state and others from any.
    """

    name: str
    blocks: tuple[tuple[Cell, ...], ...]
    stem: Any = None
    head: Any = None
    image_size: int = 224
    notation: Notation | None = None
    describe: Callable[[Space, Architecture], dict[str, Any]] | None = None
    kind: str = "own"

    def __post_init__(self) -> None:
        if any(cell.start is not None for cell in self.blocks[0]):
            raise InputError(f"[{self.name}] expected a first block that starts from any state")
        for b, cells in enumerate(self.blocks[1:], 1):
            if any((cell.start is not None) != self.has_states for cell in cells):
                raise InputError(f"[{self.name}] expected a start state for all cells after block 0 or for none, "
                                 f"got {[cell.start for cell in cells]} in block {b}")  # fmt: skip

    @property
    def has_states(self) -> bool:
        """Whether what a block may choose depends on how the block before it ended."""
        return len(self.blocks) > 1 and self.blocks[1][0].start is not None

    @classmethod
    def from_counts(cls, name: str, counts: Sequence[Sequence[Sequence[int]]]) -> Space:
        """A space that only knows how many candidates `counts[b][cell][layer]` there are."""
        return cls(name, tuple(tuple(Cell(tuple(tuple(range(n)) for n in cell)) for cell in block) for block in counts))

    @property
    def path_counts(self) -> tuple[int, ...]:
        """Paths per block, over all its cells."""
        return tuple(sum(cell.size for cell in cells) for cells in self.blocks)

    @cached_property
    def size(self) -> int:
        """Number of architectures, exactly."""
        return self._completions[0][None]

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
            for path in cell.paths():
                yield Choice(c, path)

    def cells_after(self, block: int, state: Hashable) -> dict[int, Cell]:
        """Cells of a block, by number, that can continue from a boundary state (None: from any)."""
        return {c: cell for c, cell in enumerate(self.blocks[block]) if cell.follows(state)}

    def end(self, block: int, choice: Choice) -> Hashable:
        """Boundary state that a choice of a block leaves; None where the space has no states."""
        return self.blocks[block][choice.cell].end(choice.path)

    def boundary_states(self) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        """State that every path starts from, and state that it leaves: int64 arrays of the cell's shape by `[block][cell]`.

        Equal states have equal numbers in both lists. Paths that are not allowed leave state 0; a space without states
        (`has_states`) has zeros only.
        """
        numbers: dict[Hashable, int] = {None: 0}
        starts = [[np.full(cell.counts, numbers.setdefault(cell.start, len(numbers))) for cell in cells]
                  for cells in self.blocks]  # fmt: skip
        ends = [[np.zeros(cell.counts, np.int64) for cell in cells] for cells in self.blocks]
        for cells, arrays in zip(self.blocks, ends):
            for cell, array in zip(cells, arrays):
                for path in cell.paths() if cell.leaves is not None else ():
                    array[path] = numbers.setdefault(cell.end(path), len(numbers))
        return starts, ends

    def architectures(self) -> Iterator[Architecture]:
        """All architectures, block after block in the order of `paths`; check `size` before you list them."""
        yield from map(Architecture, self._choices(0, None))

    def _choices(self, block: int, state: Hashable) -> Iterator[tuple[Choice, ...]]:
        if block == len(self.blocks):
            yield ()
            return
        for c, cell in self.cells_after(block, state).items():
            for path in cell.paths():
                for rest in self._choices(block + 1, cell.end(path)):
                    yield (Choice(c, path), *rest)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """An architecture drawn uniformly from the whole space."""
        choices: list[tuple[int, Path]] = []
        state: Hashable = None
        for b, cells in enumerate(self.blocks):
            ways = {
                (c, end): count * self._completions[b + 1].get(self._key(end), 0)
                for c, cell in self.cells_after(b, state).items()
                for end, count in cell.ends.items()
            }
            weights = np.array(list(ways.values()), dtype=np.float64)
            c, state = list(ways)[int(rng.choice(len(ways), p=weights / weights.sum()))]
            choices.append((c, _sampled(cells[c], state, rng)))
        return Architecture.of(choices)

    @cached_property
    def _completions(self) -> list[dict[Hashable, int]]:
        """Per block, by the state before it, the number of ways to choose it and all that follow."""
        ways: list[dict[Hashable, int]] = [{None: 1}]
        for b in range(len(self.blocks) - 1, -1, -1):
            after, before = ways[0], Counter[Hashable]()
            last = b == len(self.blocks) - 1
            for cell in self.blocks[b]:
                before[cell.start] += sum(
                    count * after.get(None if last else self._key(end), 0) for end, count in cell.ends.items()
                )
            ways.insert(0, dict(before))
        # Whatever state the last block leaves, nothing follows.
        ways[-1] = {self._key(end): 1 for cell in self.blocks[-1] for end in cell.ends}
        return ways

    def _key(self, end: Hashable) -> Hashable:
        """A state as the next block's cells name it."""
        return end if self.has_states else None

    def format(self, architecture: Architecture) -> str:
        """An architecture in the field's own form; `parse` reads it back."""
        return str(architecture) if self.notation is None else self.notation.write(architecture)

    def parse(self, text: str) -> Architecture:
        """Read an architecture in the field's own form or as blocks of digits, and check it.

        Raises:
            InputError: of neither form, or not in this space.
        """
        architecture = None if self.notation is None else self.notation.read(text.strip())
        architecture = architecture or Architecture.parse(text)
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
            self._check_rules(architecture, b)

    def _check_rules(self, architecture: Architecture, b: int) -> None:
        """What the cells' rules say of block b's choice."""
        cell, path = self.blocks[b][architecture[b].cell], architecture[b].path
        if not cell.allows(path):
            raise InputError(f"[{self.name}] expected a path that the cell allows in block {b}, "
                             f"got {path} in {str(architecture)!r}")  # fmt: skip
        if b == 0 or not self.has_states:
            return
        state = self.end(b - 1, architecture[b - 1])
        if cell.start != state:
            raise InputError(f"[{self.name}] expected a cell of block {b} that starts from {state!r}, as block {b - 1} "
                             f"ends, got one from {cell.start!r} in {str(architecture)!r}")  # fmt: skip

    def __str__(self) -> str:
        return self.name


def _sampled(cell: Cell, end: Hashable, rng: np.random.Generator) -> Path:
    """A path drawn uniformly from those that leave a state."""
    if cell.allowed is None and cell.leaves is None:
        return tuple(rng.integers(0, cell.counts).tolist())
    paths = [path for path in cell.paths() if cell.leaves is None or cell.leaves(path) == end]
    return paths[int(rng.integers(len(paths)))]
