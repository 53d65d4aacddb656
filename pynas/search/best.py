"""Exact search over score tables: the best architectures under cost limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.certificate import Certificate
from pynas.search.pools import Entry, Pools, WholeCosts
from pynas.search.rules import Allowed
from pynas.search.traverse import Traversal, run


@dataclass
class Found(Sequence[Entry]):
    """Architectures, best first, with the certificate of their optimality.

    exhausted: fewer than top_k architectures keep the limits, and these are all of them.
    """

    entries: Sequence[Entry]
    certificate: Certificate
    exhausted: bool
    traversal: Traversal = field(repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def verify(self) -> int:
        """Check the answer by enumeration, apart from the kernel, and return the number of partial choices seen."""
        return self.traversal.verify()


def best(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    limits: Mapping[str, Any] | None = None,
    top_k: int = 1,
    *,
    at_least: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    allowed: Allowed | None = None,
    device: str | None = None,
) -> Found:
    """Find the top_k architectures of the scores' space with the least joined score whose costs keep every limit, exactly.

    The joined score is sum_b weights[b] * score_b (DNA eq. 4: its lambda_k, 1 by default), or with join="product"
    prod_b score_b ** weights[b], minimised as a sum of logarithms. A path without a score (NaN) is left out. Equal scores
    are ordered by block, cell and path.

    scores: a `Scores`, or score tables by `[block][cell]` where the costs know their space, as those of `pynas.costs.count` do.
    costs: `Costs`; in a space of one block also costs with `names` and `of(architecture)`, of which the rated paths are asked.
    limits, at_least: upper and lower bounds by cost name, inclusive, on the whole cost with its fixed part, e.g.
    `{"madds": 400e6}`, texts such as "400M", "12ms" and "60%"; None (and infinity for an upper one) is no limit. A limit may have
    both sides: `(3e6, 4e6)`, "3M..4M", "==3M", "3M+-5%" (`pynas.search.limits.read_range`). A share is of the costs' reference
    (`costs.metadata["reference"]`), else of the most expensive architecture of the space.
    allowed: `Rules` that fix or forbid choices, or bool arrays of the score tables' shapes by `[block][cell]`; None: all paths.
    device: as in `traverse`.

    Raises:
        InputError: tables without their space, costs that do not match, infinite scores, an unknown cost, a limit on a cost
            that does not add up over the blocks (`Costs.tied`), a product of scores that are not above 0, a device that is
            not there, `allowed` that leaves no path in a block.
        InfeasibleError: no architecture keeps the limits; the message says the least cost that can be reached and which
            limits clash.
    """
    pools = Pools("best", scores, costs, allowed)
    problem = pools.problem(limits, at_least, weights, join, device)
    return found_by(pools, run(problem, top_k), join)


def found_by(pools: Pools, traversal: Traversal, join: str) -> Found:
    """Return what a search of the pools' problem found."""
    joined = np.exp(traversal.losses) if join == "product" else traversal.losses
    entries = [pools.entry(*found) for found in zip(traversal.indices, joined, traversal.costs.tolist())]
    return Found(entries, traversal.certificate, traversal.exhausted, traversal)
