"""Tree of a cell's paths: paths with a common prefix share its nodes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pynas.errors import InputError

Path = tuple[int, ...]

# Subtrees per share: with more, shares are more equal; with fewer, fewer prefixes are computed twice.
_CUTS = 8
# Subtrees between which a resumable rating may stop.
_UNITS = 16


@dataclass(frozen=True)
class Node:
    """A prefix, given by the rows `start:stop` of the tree's sorted paths that begin with it, or some of them."""

    start: int
    stop: int


@dataclass(frozen=True)
class Branch:
    """One candidate applied to some of the given parents: `parents[i]` is the position of `children[i]`'s parent."""

    candidate: int
    parents: tuple[int, ...]
    children: tuple[Node, ...]


class PathTree:
    """Paths to rate, in lexicographic order; a node at depth d is a run of paths with the same first d choices.

    paths: int64 `[P, L]`, sorted, without repetition. tail: whether the last layer is a module that all paths end with.
    """

    def __init__(self, paths: np.ndarray, tail: bool = False) -> None:
        self.paths, self._tail = paths, tail
        changed = np.ones(len(paths), dtype=bool)
        changed[1:] = False
        self._starts = []
        for column in paths.T:
            changed[1:] |= column[1:] != column[:-1]
            self._starts.append(np.flatnonzero(changed).tolist() + [len(paths)])

    @property
    def depth(self) -> int:
        """Layers of a path."""
        return self.paths.shape[1]

    @property
    def root(self) -> Node:
        """The empty prefix."""
        return Node(0, len(self.paths))

    def width(self, depth: int) -> int:
        """Nodes at a depth: 1 at the root, the number of paths at the leaves."""
        return 1 if depth == 0 else len(self._starts[depth - 1]) - 1

    def prefix(self, node: Node, depth: int) -> Path:
        """Choices that lead to a node."""
        return tuple(int(choice) for choice in self.paths[node.start, :depth])

    def place(self, path: Path, depth: int) -> str:
        """Name the layer `depth` of a path in messages."""
        tail = self._tail and depth == self.depth - 1
        return f"{'the tail' if tail else f'candidate {path[depth]} of layer {depth}'} after the path {path[:depth]}"

    def branches(self, depth: int, nodes: Sequence[Node]) -> Iterator[Branch]:
        """Yield each candidate of layer `depth` with the nodes that it leads to."""
        children_of: dict[int, list[tuple[int, Node]]] = {}
        starts = self._starts[depth]
        for position, node in enumerate(nodes):
            first, last = bisect_right(starts, node.start) - 1, bisect_left(starts, node.stop)
            for start, stop in zip(starts[first:last], starts[first + 1 : last + 1]):
                child = Node(max(start, node.start), min(stop, node.stop))
                children_of.setdefault(int(self.paths[start, depth]), []).append((position, child))
        for candidate in sorted(children_of):
            parents, children = zip(*children_of[candidate])
            yield Branch(candidate, parents, children)

    def split(self, parts: int) -> list[Node]:
        """Return all nodes of the least depth that has at least `parts` of them; their subtrees can be rated separately."""
        depth = next((d for d in range(self.depth) if self.width(d) >= parts), self.depth)
        if depth == 0:
            return [self.root]
        starts = self._starts[depth - 1]
        return [Node(start, stop) for start, stop in pairwise(starts)]

    def share(self, part: int, parts: int) -> Node:
        """Return share `part` of `parts`: contiguous paths, nearly equal in number, cut where subtrees end."""
        nodes = self.split(_CUTS * parts)
        cuts = [nodes[len(nodes) * cut // parts].start for cut in range(parts)] + [len(self.paths)]
        return Node(cuts[part], cuts[part + 1])

    def units(self, share: Node, several: bool) -> list[Node]:
        """Split a share into subtrees between which a rating may stop (`several`), else keep it whole; an empty share has none."""
        cuts = [node.start for node in self.split(_UNITS)] if several else []
        cuts = [share.start, *(cut for cut in cuts if share.start < cut < share.stop), share.stop]
        return [Node(start, stop) for start, stop in pairwise(cuts) if start < stop]

    def extended(self) -> PathTree:
        """Return the tree with one more layer of a single candidate, the tail."""
        return PathTree(np.pad(self.paths, ((0, 0), (0, 1))), tail=True)


def build_tree(
    counts: Sequence[int], paths: Iterable[Sequence[int]] | None = None, allowed: Callable[[Path], bool] | None = None
) -> PathTree:
    """Build the tree of all paths, or of the listed `paths`, without those that `allowed` forbids.

    counts: candidates per layer.
    allowed: called with every prefix and with whole paths; False leaves out all paths that begin with it.

    Raises:
        InputError: a listed path that the cell does not have, or no path left.
    """
    if paths is not None:
        rows = _listed(counts, paths)
        if allowed is not None:
            rows = [row for row in rows if all(allowed(row[:depth]) for depth in range(1, len(row) + 1))]
        table = np.array(rows, dtype=np.int64).reshape(-1, len(counts))
    elif allowed is not None:
        prefixes: list[Path] = [()]
        for count in counts:
            longer = (prefix + (choice,) for prefix in prefixes for choice in range(count))
            prefixes = [prefix for prefix in longer if allowed(prefix)]
        table = np.array(prefixes, dtype=np.int64).reshape(-1, len(counts))
    else:
        table = np.indices(tuple(counts), dtype=np.int64).reshape(len(counts), -1).T
    if not len(table):
        raise InputError("[rate] expected at least one path to rate, got none; check `paths` and `allowed`")
    return PathTree(np.ascontiguousarray(table))


def _listed(counts: Sequence[int], paths: Iterable[Sequence[int]]) -> list[Path]:
    rows = {tuple(int(choice) for choice in path) for path in paths}
    for row in rows:
        if len(row) != len(counts) or any(not 0 <= choice < count for choice, count in zip(row, counts)):
            raise InputError(f"[rate] expected paths of one candidate per layer out of {tuple(counts)}, got {row}")
    return sorted(rows)
