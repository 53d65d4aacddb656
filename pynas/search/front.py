"""Pareto fronts over score tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.pareto import ParetoFront, solve
from pynas.search.pools import Entry, Pools, WholeCosts
from pynas.search.rules import Allowed


@dataclass
class Front(Sequence[Entry]):
    """Architectures on the front, by rising cost.

    names: the costs of the front. space_size: number of architectures of the space, exact.
    """

    entries: Sequence[Entry]
    names: tuple[str, ...]
    space_size: int
    pareto: ParetoFront = field(repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def verify(self) -> None:
        """Check the front independently, as `ParetoFront.verify` does."""
        self.pareto.verify()


def front(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    names: str | Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    allowed: Allowed | None = None,
    device: str = "cpu",
) -> Front:
    """Find all architectures that no other one dominates in joined score and one or two named costs, exactly.

    They come by rising cost. Scores join as in `best`, and `allowed` is as there; of equal ones the first by block, cell and path
    is kept. Entries hold all costs.

    Raises:
        InputError: as `best`, or other than one or two costs.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in costs.names]
    if unknown or not 1 <= len(set(names)) == len(names) <= 2:
        raise InputError(f"[front] expected one or two different costs of {', '.join(costs.names)}, got {list(names)}")
    pools = Pools("front", scores, costs, allowed)
    pools.require(names)
    problem = pools.problem({}, {}, weights, join)
    every = dict(zip(pools.names, problem.columns))
    problem.columns = [every[name] for name in names]
    pareto = solve(problem, device)
    rows = pareto.indices + problem.offsets[:-1]
    totals = zip(*(every[name].total(rows).tolist() for name in pools.names))
    joined = np.exp(pareto.losses) if join == "product" else pareto.losses
    entries = [pools.entry(*found) for found in zip(pareto.indices, joined, totals)]
    return Front(entries, names, pareto.space_size, pareto)
