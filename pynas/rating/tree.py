"""Tree of a cell's paths: paths with a common prefix share its nodes."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pynas.errors import InputError
from pynas.rating.listed import check_paths

Path = tuple[int, ...]

# Paths that can be rated without a choice among them: their list takes 1 GiB per layer.
_MOST = 2**27
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

    def runs(self, depth: int, candidates: int) -> list[int]:
        """Nodes that each of so many candidates of layer `depth` leads to."""
        return np.bincount(self.paths[self._starts[depth][:-1], depth], minlength=candidates).tolist()

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

    def pieces(self, node: Node, count: int) -> list[Node]:
        """Split a node before the last layer into `count` nodes of nearly equal numbers of paths, or fewer."""
        size = node.stop - node.start
        cuts = sorted({node.start + size * piece // count for piece in range(count)})
        return [Node(start, stop) for start, stop in pairwise([*cuts, node.stop])]

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
        InputError: a listed path that the cell does not have, more paths than can be listed, or no path left.
    """
    if paths is not None:
        table = np.unique(check_paths("rate", counts, paths), axis=0)
        if allowed is not None:
            rows = map(tuple, table.tolist())
            table = table[[all(allowed(row[:depth]) for depth in range(1, len(row) + 1)) for row in rows]]
    elif allowed is not None:
        prefixes: list[Path] = [()]
        for count in counts:
            longer = (prefix + (choice,) for prefix in prefixes for choice in range(count))
            prefixes = [prefix for prefix in longer if allowed(prefix)]
        table = np.array(prefixes, dtype=np.int64).reshape(-1, len(counts))
    else:
        table = _every(counts)
    if not len(table):
        raise InputError("[rate] expected at least one path to rate, got none; check `paths` and `allowed`")
    return PathTree(np.ascontiguousarray(table))


def _every(counts: Sequence[int]) -> np.ndarray:
    size = math.prod(counts)
    if size > _MOST:
        raise InputError(f"[rate] expected paths= or allowed= to choose among the {size:,} paths of {len(counts)} layers, got "
                         f"neither; all paths can be rated of at most {_MOST:,}")  # fmt: skip
    table, after = np.empty((size, len(counts)), np.int64), size
    for layer, count in enumerate(counts):
        after //= count
        table[:, layer] = np.tile(np.repeat(np.arange(count), after), size // count // after)
    return table
