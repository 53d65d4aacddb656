"""Search by a learned action space, a tree of classifiers that finds good regions (Wang et al., 2019); Pi-NAS uses it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.search.ratings import History, Rate, Ratings
from pynas.search.variation import mutate
from pynas.spaces import Architecture, Space

# A region with fewer ratings is not split. Share of the layers that a mutation redraws.
_LEAST, _MUTATION = 16, 0.15


def learn_action_space(
    space: Space,
    rate: Rate,
    budget: int = 1000,
    *,
    initial: int = 80,
    picks: int = 8,
    depth: int = 5,
    exploration: float = 0.1,
    proposals: int = 1000,
    seed: int = 0,
    costs: Costs | None = None,
    limits: Mapping[str, Any] | None = None,
    at_least: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Rate at most `budget` architectures, and return them; other arguments as for `evolve`.

    The first `initial` architectures are random (80 in Pi-NAS). Then each step fits a tree on all ratings: the classifier of a
    node separates the ratings better than the node's median from the others, down to `depth`. From the root the step follows
    the branch of the greater mean rank plus `exploration` sqrt(2 ln n_parent / n_child). It rates `picks` (8) of `proposals`
    random architectures: those that pass the most classifiers towards that leaf.

    Raises:
        InputError: sizes out of range, a score that is not finite, or a file of another search.
        InfeasibleError: no architecture keeps the limits.
    """
    _check(initial, picks, depth, exploration, proposals)
    options = {"initial": initial, "picks": picks, "depth": depth, "exploration": exploration, "proposals": proposals}
    rng, encoding = np.random.default_rng(seed), Encoding(space)
    with Ratings(
        space, rate, budget, costs, limits, at_least, file, progress, search="action space", seed=seed, **options
    ) as ratings:
        while ratings.left:
            if len(ratings.architectures) < initial:
                chosen = _distinct(ratings, rng, 1)
            else:
                ratings.settle()
                region = Region.best(encoding(ratings.architectures), np.array(ratings.scores), depth, exploration)
                proposed = _distinct(ratings, rng, proposals)
                order = np.argsort(-region.depths(encoding(proposed)), kind="stable")[:picks]
                chosen = [proposed[i] for i in order]
            for architecture in chosen[: ratings.left]:
                ratings.add(architecture)
        return ratings.history()


def _check(initial: int, picks: int, depth: int, exploration: float, proposals: int) -> None:
    if initial < 2 or not 1 <= picks <= proposals or depth < 1 or exploration < 0:
        raise InputError(
            "[action space] expected initial >= 2, 1 <= picks <= proposals, depth >= 1 and exploration >= 0, "
            f"got {initial}, {picks}, {proposals}, {depth} and {exploration}"
        )


def _distinct(ratings: Ratings, rng: np.random.Generator, count: int) -> list[Architecture]:
    """Draw different architectures that may be rated, `count` of them, or fewer where they are rare.

    Random ones; where too few of these keep the limits, also mutations of those that are rated.
    """
    drawn: dict[Architecture, None] = {}
    parents = ratings.architectures if ratings.limited else []
    for number in range(4 * count if parents else 2 * count):
        if number < 2 * count:
            architecture = ratings.space.sample(rng)
        else:
            architecture = mutate(ratings.space, parents[int(rng.integers(len(parents)))], rng, _MUTATION)
        if ratings.may_rate(architecture):
            drawn[architecture] = None
        if len(drawn) == count:
            break
    if drawn:
        return list(drawn)
    last = ratings.sample(rng)
    return [] if last is None else [last]


class Encoding:
    """Encodes architectures as vectors of zeros and ones: a one per block for its cell, and per layer for its candidate.

    Equal candidates at one place have one feature, whichever cell they are in.
    """

    def __init__(self, space: Space) -> None:
        self._space, self._columns = space, dict[Hashable, int]()
        for b, cells in enumerate(space.blocks):
            for c, cell in enumerate(cells):
                self._column(("cell", b, c))
                for layer, candidates in enumerate(cell.layers):
                    for description in candidates:
                        self._column((b, layer, description))

    def _column(self, key: Hashable) -> int:
        return self._columns.setdefault(key, len(self._columns))

    def __call__(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """float64 `[N, features]`."""
        vectors = np.zeros((len(architectures), len(self._columns)))
        for row, architecture in enumerate(architectures):
            for b, choice in enumerate(architecture):
                vectors[row, self._columns["cell", b, choice.cell]] = 1
                layers = self._space.blocks[b][choice.cell].layers
                for layer, candidate in enumerate(choice.path):
                    vectors[row, self._columns[b, layer, layers[layer][candidate]]] = 1
        return vectors


@dataclass(frozen=True)
class Region:
    """A leaf of the tree: the classifiers from the root to it, each with the leaf's side."""

    sides: Sequence[tuple[Any, bool]]

    @classmethod
    def best(cls, vectors: np.ndarray, scores: np.ndarray, depth: int, exploration: float) -> Region:
        """Fit the tree along its best branches and return the leaf. vectors `[N, features]`, scores `[N]`, lower is better."""
        from sklearn.svm import SVC  # loads in a second, and few searches need it

        # Ranks keep the weight of the exploration independent of the scale of the scores.
        merit = 1 - (rankdata(scores) - 1) / max(len(scores) - 1, 1)
        sides: list[tuple[Any, bool]] = []
        rows = np.arange(len(scores))
        while len(sides) < depth and len(rows) >= _LEAST:
            good = merit[rows] > np.median(merit[rows])
            if good.all() or not good.any():
                break
            classifier = SVC(C=1.0, kernel="rbf", gamma="scale").fit(vectors[rows], good)
            side = classifier.predict(vectors[rows]).astype(bool)
            if side.all() or not side.any():
                break
            values = [
                merit[part].mean() + exploration * np.sqrt(2 * np.log(len(rows)) / len(part))
                for part in (rows[~side], rows[side])
            ]
            better = bool(values[1] >= values[0])
            sides.append((classifier, better))
            rows = rows[side == better]
        return cls(sides)

    def depths(self, vectors: np.ndarray) -> np.ndarray:
        """Number of classifiers in a row, from the root on, that each vector passes: int `[N]`."""
        inside, passed = np.ones(len(vectors), bool), np.zeros(len(vectors), np.int64)
        for classifier, side in self.sides:
            inside &= classifier.predict(vectors).astype(bool) == side
            passed += inside
        return passed
