"""A search space: blocks of alternative cells of layers of candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice
from pynas.spaces.cell import Cell, Path, Rule, rules_by_cell
from pynas.spaces.networks import published

V = TypeVar("V")


@dataclass(frozen=True)
class Notation:
    """The string form that the literature uses for a space's architectures.

    read: returns None for a text of another form.
    """

    write: Callable[[Architecture], str]
    read: Callable[[str], Architecture | None]


@dataclass(frozen=True)
class Space:
    """A search space. An architecture is a (cell, path) per block; each cell starts from the state that the block before left.

    blocks: `blocks[b]` holds the alternative cells of block b.
    stem, head: descriptions of the parts before and after the blocks, which all architectures share; None for no such part.
    image_size: side in pixels of the square images that the space was designed for.
    notation: how architectures are written; None for blocks of digits (`Architecture`).
    describe: called with the space and an architecture, returns its choices by name, for JSON; None where the notation is
        readable enough.
    kind: family of the space ("mbconv", "hytra", "autoformer", ...), the key of `pynas.supernets.KINDS`, which says how the
        supernet is built and counted; "own" for a space of the user's modules.

    Raises:
        InputError: a block where some cells start from a state and others from any, or a cell without an allowed path.
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
        for b, cells in enumerate(self.blocks):
            for c, cell in enumerate(cells):
                if cell.allowed is not None:
                    self._check_rule(cell, f"cell {c} of block {b}")

    def _check_rule(self, cell: Cell, where: str) -> None:
        try:
            first = next(cell.paths(), None)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"[{self.name}] expected a rule `allowed` that takes every prefix of a path in {where}, got "
                             f"{type(error).__name__}: {error}; let it allow those too short to tell") from error  # fmt: skip
        if first is None:
            raise InputError(f"[{self.name}] expected a rule `allowed` that allows a path in {where}, got none; check the rule, "
                             "or remove the cell")  # fmt: skip

    @property
    def has_states(self) -> bool:
        """Whether the choices of a block depend on the boundary state that the block before it leaves."""
        return len(self.blocks) > 1 and self.blocks[1][0].start is not None

    @classmethod
    def from_counts(
        cls,
        name: str,
        counts: Sequence[Sequence[Sequence[int]]],
        allowed: Rule | Sequence[Sequence[Rule | None]] | None = None,
    ) -> Space:
        """Build a space from numbers of candidates, `counts[b][cell][layer]`; candidates are described by their numbers.

        allowed: `allowed[b][cell]` is the rule of a cell (`Cell`), such as that of `pynas.rating.elastic_depth`; None, there
            or for all, allows every path. A space of one cell takes the rule itself.

        Raises:
            InputError: rules of other numbers of blocks or cells, or a rule that allows no path.
        """
        rules = rules_by_cell(allowed, [*map(len, counts)], name)
        layers = [[tuple(tuple(range(n)) for n in cell) for cell in block] for block in counts]
        return cls(name, tuple(tuple(map(Cell, *block)) for block in zip(layers, rules)))

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

    def fold(
        self, start: V, step: Callable[[int, int, V], Iterable[tuple[Hashable, V]]], join: Callable[[V, V], V]
    ) -> Iterator[dict[Hashable, V]]:
        """Carry values through the blocks, one per boundary state, and yield them by state after every block.

        start: value before the first block.
        step: called with a block, a cell and the value before the cell; returns (state, value) pairs, one or more for each
            state that the cell's paths leave.
        join: called with two values of the same state, returns one.
        """
        values: dict[Hashable, V] = {None: start}
        for b in range(len(self.blocks)):
            after: dict[Hashable, V] = {}
            for state, value in values.items():
                for c in self.cells_after(b, state):
                    for end, new in step(b, c, value):
                        key = end if self.has_states or b == len(self.blocks) - 1 else None
                        after[key] = join(after[key], new) if key in after else new
            values = after
            yield values

    @cached_property
    def boundary_states(self) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        """State that every path starts from, and state that it leaves: int64 arrays of the cell's shape by `[block][cell]`.

        Equal states have equal numbers in both lists. A path that is not allowed leaves -1; a space without states
        (`has_states`) has zeros else.
        """
        numbers: dict[Hashable, int] = {None: 0}
        starts, ends = [], []
        for cells in self.blocks:
            starts.append([np.full(cell.counts, numbers.setdefault(cell.start, len(numbers))) for cell in cells])
            ends.append([np.full(cell.counts, 0 if cell.allowed is None else -1) for cell in cells])
            for cell, array in zip(cells, ends[-1]):
                for path in () if cell.allowed is None and cell.leaves is None else cell.paths():
                    array[path] = numbers.setdefault(cell.end(path), len(numbers))
        return starts, ends

    def architectures(self) -> Iterator[Architecture]:
        """All architectures, in the order of `paths` from the first block to the last; check `size` before you list them."""
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
        """Number of ways to choose a block and all blocks after it, per block, by the state before the block."""
        ways: list[dict[Hashable, int]] = [{None: 1}]
        for b in range(len(self.blocks) - 1, -1, -1):
            after, before = ways[0], Counter[Hashable]()
            last = b == len(self.blocks) - 1
            for cell in self.blocks[b]:
                before[cell.start] += sum(
                    count * after.get(None if last else self._key(end), 0) for end, count in cell.ends.items()
                )
            ways.insert(0, dict(before))
        # One way to choose nothing, whichever state the last block leaves.
        ways[-1] = {self._key(end): 1 for cell in self.blocks[-1] for end in cell.ends}
        return ways

    def _key(self, end: Hashable) -> Hashable:
        """Name that the next block's cells use for a state: None where the space has no states."""
        return end if self.has_states else None

    def format(self, architecture: Architecture) -> str:
        """Write an architecture in the space's notation; `parse` reads it back."""
        return str(architecture) if self.notation is None else self.notation.write(architecture)

    def parse(self, text: str) -> Architecture:
        """Read an architecture in the space's notation, as blocks of digits or by its published name, and check it.

        Raises:
            InputError: a text of no such form, or an architecture outside this space.
        """
        text = published(text.strip(), self.name)
        architecture = None if self.notation is None else self.notation.read(text)
        architecture = architecture or Architecture.parse(text)
        self.check(architecture)
        return architecture

    def resolve(self, architecture: Architecture | str) -> Architecture:
        """Return an architecture of this space, given as such or as text.

        Raises:
            InputError: an architecture outside this space.
        """
        if isinstance(architecture, str):
            return self.parse(architecture)
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
        """Raise InputError where block b's choice breaks its cell's rule, or does not start from the state before it."""
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
