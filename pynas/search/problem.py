"""A checked search problem (a multiple-choice knapsack) on whole numbers, and the call of the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pynas.ops.traversal import traverse
from pynas.search.grid import Column, Grid
from pynas.search.states import Links

# Beyond every total: an upper limit there holds for every choice, a lower one for none.
_FAR = 2**61 - 1


@dataclass(frozen=True)
class Limit:
    """Bounds on the total of one cost, both inclusive; None for no bound."""

    name: str
    upper: float | None = None
    lower: float | None = None


@dataclass
class Problem:
    """One row per option, block after block: losses int64 `[N]` on their grid, a column and a limit per cost.

    device: where the exact search has its long lists, as `pynas.ops.traversal.traverse` takes it.
    """

    name: str
    offsets: np.ndarray
    losses: np.ndarray
    grid: Grid
    columns: Sequence[Column]
    limits: Sequence[Limit]
    links: Links
    device: str | None = None

    @property
    def space_size(self) -> int:
        """Number of choices, limits aside, exact."""
        if self.links.states == 1:
            return math.prod(np.diff(self.links.offsets).tolist())
        return self.links.count()

    def criteria(self, which: Sequence[Limit] | None = None) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
        """Return costs `[N, M]`, their upper limits `[M]`, and of each column (cost, 0 for its upper, 1 for its lower limit).

        A lower limit is an upper one on the negated cost. Limits that no choice can break are left out.
        """
        costs, most, owners = [], [], []
        for at, (column, limit) in enumerate(zip(self.columns, self.limits)):
            if which is not None and limit not in which:
                continue
            if limit.upper is not None and limit.upper != math.inf:
                upper = column.most(limit.upper)
                if upper < np.maximum.reduceat(column.whole, self.offsets[:-1]).sum():
                    costs.append(column.whole)
                    most.append(max(upper, -_FAR))
                    owners.append((at, 0))
            if limit.lower is not None and limit.lower > 0:
                lower = column.least(limit.lower)
                if lower > np.minimum.reduceat(column.whole, self.offsets[:-1]).sum():
                    costs.append(-column.whole)
                    most.append(max(-lower, -_FAR))
                    owners.append((at, 1))
        stacked = np.stack(costs, axis=1) if costs else np.zeros((len(self.losses), 0), np.int64)
        return stacked, np.array(most, dtype=np.int64), owners

    def solve(
        self, losses: np.ndarray, costs: np.ndarray, most: np.ndarray, top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Call the kernel; returns option rows `[k, B]`, and counts and multipliers as the operator documents them."""
        links = self.links
        whole = len(links.rows) == len(losses) and links.states == 1
        if not whole:
            losses, costs = losses[links.rows], costs[links.rows]
        offsets, loss, cost, limits = map(torch.from_numpy, (links.offsets, losses, np.ascontiguousarray(costs), most))
        start, stop = (
            torch.from_numpy(state) if links.states > 1 else None for state in (links.state_in, links.state_out)
        )
        indices, counts, multipliers = traverse(
            offsets, loss, cost, limits, start, stop, links.states, top_k, device=self.device
        )
        rows = indices.numpy()[: int(counts[0])] + links.offsets[:-1]
        return rows if whole else links.rows[rows], counts.numpy(), multipliers.numpy()
