"""Handful of paths for a check, which uses as many candidates as it can, and the tree that the handful comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import mul

import numpy as np

from pynas.errors import InputError
from pynas.rating.tree import Path, PathTree, build_tree

# A tree of more paths is not listed.
_LISTED = 1 << 16
# Paths of the wider set, in which paths share more work than in the handful.
_WIDER = 64

Rule = Callable[[Path], bool]


class SamplePaths:
    """Handful of the paths that a rating would rate.

    counts: candidates per layer. paths, allowed: as of `rate`. sample: paths of the handful, which begins with the first and
    ends with the last path; all where there are no more.

    paths: the handful, sorted. widths: distinct prefixes of all paths after every layer, by layer; None where a rule leaves
    too many to count.

    Raises:
        InputError: a listed path that the layers do not have, or no path at all.
    """

    def __init__(
        self, counts: Sequence[int], paths: Iterable[Sequence[int]] | None, allowed: Rule | None, sample: int, seed: int
    ) -> None:
        self._counts, self._allowed, self._rng = tuple(counts), allowed, np.random.default_rng(seed)
        self._tree = _tree(self._counts, paths, allowed)
        if self._tree is not None:
            self.widths: list[int] | None = tree_widths(self._tree)
        else:
            self.widths = list(accumulate(counts, mul)) if allowed is None else None
        self.paths = sorted(self._from_rows(sample) if self._tree is not None else self._from_rule(sample))

    @property
    def everything(self) -> bool:
        """Whether the handful is all there is."""
        return self.widths is not None and self.widths[-1] == len(self.paths)

    def wider(self) -> list[Path]:
        """All paths where they are few, else the handful and its siblings in the last layer; nothing in a single layer."""
        if len(self._counts) == 1 or self.everything:
            return []
        if self._tree is not None and len(self._tree.paths) <= _WIDER:
            return [tuple(row) for row in self._tree.paths.tolist()]
        known = None if self._tree is None else set(map(tuple, self._tree.paths.tolist()))
        each = min(self._counts[-1], max(2, _WIDER // len(self.paths)))
        siblings = {(*path[:-1], choice) for path in self.paths for choice in range(each)}
        return sorted({path for path in siblings if (path in known if known else self._allows(path))} | set(self.paths))

    def _from_rows(self, sample: int) -> set[Path]:
        """Paths of a listed tree: each next one uses the candidates that were used least."""
        rows = self._tree.paths  # type: ignore[union-attr]
        if len(rows) <= sample:
            return {tuple(row) for row in rows.tolist()}
        mixed = self._rng.permutation(len(rows))
        chosen = [0, len(rows) - 1][:sample]
        while len(chosen) < sample:
            used = [np.bincount(column, minlength=count) for column, count in zip(rows[chosen].T, self._counts)]
            weights = sum(times[column] for times, column in zip(used, rows.T)).astype(float)  # type: ignore[union-attr]
            weights[chosen] = np.inf
            chosen.append(int(mixed[weights[mixed].argmin()]))
        return {tuple(row) for row in rows[chosen].tolist()}

    def _from_rule(self, sample: int) -> set[Path]:
        """Paths of a tree that is too large to list; each layer tries the candidates first that were used least."""
        first = next(self._descend(range), None)
        if first is None:
            raise InputError("[check] expected at least one path to rate, got none; check `allowed`")
        last = next(self._descend(lambda count: range(count - 1, -1, -1)))
        chosen = dict.fromkeys((first, last))
        for _ in range(4 * sample):
            if len(chosen) < sample:
                chosen[next(self._descend(None, list(chosen)))] = None
        return set(list(chosen)[:sample])

    def _descend(self, order: Callable[[int], Iterable[int]] | None, before: Sequence[Path] = ()) -> Iterator[Path]:
        """Yield allowed paths depth first, candidates in the given order, or those first that the paths `before` use least."""

        def longer(prefix: Path) -> Iterator[Path]:
            depth = len(prefix)
            if depth == len(self._counts):
                yield prefix
                return
            used = np.bincount([path[depth] for path in before], minlength=self._counts[depth])
            least = np.lexsort((self._rng.random(self._counts[depth]), used)).tolist()
            for choice in least if order is None else order(self._counts[depth]):
                if self._allowed is None or self._allowed((*prefix, choice)):
                    yield from longer((*prefix, choice))

        return longer(())

    def _allows(self, path: Path) -> bool:
        return self._allowed is None or all(self._allowed(path[:depth]) for depth in range(1, len(path) + 1))


def tree_widths(tree: PathTree) -> list[int]:
    """Distinct prefixes after every layer; their sum is the number of layer runs that the tree needs."""
    return [tree.width(depth) for depth in range(1, tree.depth + 1)]


def _tree(counts: Sequence[int], paths: Iterable[Sequence[int]] | None, allowed: Rule | None) -> PathTree | None:
    """Tree of all paths; None where there are too many to list."""
    if paths is not None or (allowed is None and math.prod(counts) <= _LISTED):
        return build_tree(counts, paths, allowed)
    if allowed is None:
        return None
    prefixes: list[Path] = [()]
    for count in counts:
        prefixes = [(*prefix, choice) for prefix in prefixes for choice in range(count) if allowed((*prefix, choice))]
        if len(prefixes) > _LISTED:
            return None
    return build_tree(counts, prefixes)
