"""Exact Pareto fronts on plain arrays: all choices that no other dominates in loss and one or two costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pynas.errors import InfeasibleError, InputError
from pynas.ops.pareto import pareto_filter, pareto_pairs
from pynas.search.grid import Column
from pynas.search.problem import Limit, Problem
from pynas.search.traverse import read_problem, run
from pynas.search.verify import VerificationError


@dataclass
class ParetoFront:
    """Undominated choices by rising cost: indices int64 `[F, B]`, losses float64 `[F]`, costs `[F, m]`.

    space_size: number of all choices, exact.
    """

    indices: np.ndarray
    losses: np.ndarray
    costs: np.ndarray
    space_size: int
    problem: Problem = field(repr=False)

    def __len__(self) -> int:
        return len(self.losses)

    def verify(self, samples: int = 32, seed: int = 0) -> None:
        """Check that sums hold, that no point dominates another, and that the exact search agrees at random limits.

        Raises:
            VerificationError: it is not the exact front.
        """
        problem = self.problem
        rows = self.indices + problem.offsets[:-1]
        whole = problem.losses[rows].sum(axis=1)
        spent = np.stack([column.whole[rows].sum(axis=1) for column in problem.columns], axis=1)
        kept = pareto_filter(torch.from_numpy(whole), torch.from_numpy(spent))
        if len(kept) != len(self):
            raise VerificationError(f"[verify] expected {len(self)} undominated points, got {len(kept)}")
        rng = np.random.default_rng(seed)
        corners = np.vstack([spent, np.full((1, spent.shape[1]), 2**61)])
        for _ in range(samples):
            # A missing point shows at the costs of points on the front, just below them, and without limits.
            limits = corners[rng.integers(len(corners), size=spent.shape[1]), np.arange(spent.shape[1])]
            limits = limits - rng.integers(0, 2, size=limits.shape)
            within = whole[(spent <= limits).all(axis=1)]
            least = self._least_within(limits)
            if least != (within.min() if len(within) else None):
                raise VerificationError(f"[verify] expected a front with the loss {least} within {limits}, got another")

    def _least_within(self, limits: np.ndarray) -> int | None:
        """Least whole loss within whole limits, by the exact search; None where no choice keeps them."""
        problem = self.problem
        columns = [Column(column.whole, 0, None) for column in problem.columns]
        bounds = [Limit(f"cost {d}", int(limit)) for d, limit in enumerate(limits)]
        search = Problem("verify", problem.offsets, problem.losses, problem.grid, columns, bounds, problem.links)
        try:
            rows = run(search, 1).indices[0] + problem.offsets[:-1]
        except InfeasibleError:
            return None
        return int(problem.losses[rows].sum())


def pareto(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    *,
    state_in: Sequence[np.ndarray] | None = None,
    state_out: Sequence[np.ndarray] | None = None,
    follows: np.ndarray | None = None,
    device: str = "cpu",
) -> ParetoFront:
    """Find all choices of one option per block that no other dominates in total loss and total costs.

    A choice dominates another when none of its totals is greater and one is less; of equal choices the first by the indices,
    block by block, is kept. Totals are exact. The work per block is one pass, on `device`, over the front so far times the
    block's own front.

    losses[b]: float64 `[n_b]`. costs[b]: int64 or float64 `[n_b]`, `[n_b, 1]` or `[n_b, 2]`.
    state_in, state_out, follows: as in `traverse`.

    Raises:
        InputError: as `traverse`, or other than one or two costs.
    """
    problem, table = read_problem("pareto", losses, costs, state_in, state_out, follows)
    points = solve(problem, device)
    points.costs = points.costs.astype(table.dtype if np.issubdtype(table.dtype, np.integer) else np.float64)
    return points


def solve(problem: Problem, device: str = "cpu") -> ParetoFront:
    """Return the front of a checked problem in all of its columns."""
    if not 1 <= len(problem.columns) <= 2:
        raise InputError(f"[{problem.name}] expected one or two costs for a front, got {len(problem.columns)}")
    rows = _front(problem, torch.device(device))
    whole = problem.losses[rows].sum(axis=1)
    spent = [column.whole[rows].sum(axis=1) for column in problem.columns]
    rows = rows[np.lexsort((whole, *reversed(spent)))]
    totals = np.empty((len(rows), len(problem.columns)), dtype=object)
    for d, column in enumerate(problem.columns):
        totals[:, d] = column.total(rows).tolist()
    losses = problem.grid.total(problem.losses[rows].sum(axis=1))
    return ParetoFront(rows - problem.offsets[:-1], losses, totals, problem.space_size, problem)


def _front(problem: Problem, device: torch.device) -> np.ndarray:
    """Option rows `[F, B]` of the front, from fronts of the leading blocks in lexicographic order, one block more each time."""
    links = problem.links
    losses = torch.from_numpy(problem.losses[links.rows]).to(device)
    costs = torch.from_numpy(np.stack([column.whole[links.rows] for column in problem.columns], axis=1)).to(device)
    start, stop = (torch.from_numpy(state).to(device) for state in (links.state_in, links.state_out))
    loss, cost = losses.new_zeros(1), costs.new_zeros(1, costs.shape[1])
    state = torch.zeros_like(loss)
    history = []
    for begin, end in zip(links.offsets[:-1].tolist(), links.offsets[1:].tolist()):
        block = slice(begin, end)
        parent, option = _extend((loss, cost, state), (losses[block], costs[block], start[block], stop[block]))
        history.append((parent.cpu().numpy(), links.rows[begin + option.cpu().numpy()]))
        loss, cost = loss[parent] + losses[block][option], cost[parent] + costs[block][option]
        state = stop[block][option]
    rows = np.empty((len(loss), len(history)), np.int64)
    at: np.ndarray = np.arange(len(loss))
    for b in range(len(history) - 1, -1, -1):
        parents, options = history[b]
        rows[:, b] = options[at]
        at = parents[at]
    return rows


def _extend(front, block) -> tuple[torch.Tensor, torch.Tensor]:
    """Parents and options of the next front, undominated per end state, in lexicographic order."""
    loss, cost, _ = front
    losses, costs, start, stop = block
    pairs = []
    for end in stop.unique():
        into = [_pairs_between(front, block, at, end) for at in start[stop == end].unique()]
        pair = torch.cat(into)
        if len(into) > 1:
            pair = pair[_lexicographic(pair)]
            pair = pair[pareto_filter(loss[pair[:, 0]] + losses[pair[:, 1]], cost[pair[:, 0]] + costs[pair[:, 1]])]
        pairs.append(pair)
    pair = torch.cat(pairs)
    if len(pairs) > 1:
        pair = pair[_lexicographic(pair)]
    return pair[:, 0], pair[:, 1]


def _pairs_between(front, block, at: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Undominated (parent, option) pairs through the state `at` that end in the state `end`."""
    loss, cost, state = front
    losses, costs, start, stop = block
    left = (state == at).nonzero()[:, 0]
    right = ((start == at) & (stop == end)).nonzero()[:, 0]
    right = right[pareto_filter(losses[right], costs[right])]
    pair = pareto_pairs(loss[left], cost[left], losses[right], costs[right])
    return torch.stack([left[pair[:, 0]], right[pair[:, 1]]], dim=1)


def _lexicographic(pair: torch.Tensor) -> torch.Tensor:
    order = pair[:, 1].argsort(stable=True)
    return order[pair[order, 0].argsort(stable=True)]
