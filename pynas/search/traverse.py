"""Exact search on plain arrays: the top_k choices, one option per block, within all limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pynas.errors import InfeasibleError, InputError
from pynas.search.certificate import Certificate
from pynas.search.grid import cost_column, join_blocks, losses_on_grid
from pynas.search.infeasible import explain
from pynas.search.problem import Limit, Problem
from pynas.search.states import link, unlinked
from pynas.search.verify import verify

# One bound per cost, None for no bound; a plain number where there is one cost.
Bounds = Sequence[float | None] | float | None


@dataclass
class Traversal:
    """The top_k choices, best first: indices int64 `[k, B]`, losses float64 `[k]`, costs `[k, m]`, and the certificate.

    exhausted: fewer than top_k choices keep the limits, and these are all of them.
    """

    indices: np.ndarray
    losses: np.ndarray
    costs: np.ndarray
    certificate: Certificate
    exhausted: bool
    problem: Problem = field(repr=False)
    multipliers: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.losses)

    def verify(self) -> int:
        """Check the answer by enumeration, apart from the kernel, and return the number of partial choices seen.

        Raises:
            VerificationError: the answer is not exact.
        """
        return verify(self.problem, self.indices + self.problem.offsets[:-1], self.exhausted, self.multipliers)


def traverse(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    limits: Bounds,
    top_k: int = 1,
    *,
    at_least: Bounds = None,
    state_in: Sequence[np.ndarray] | None = None,
    state_out: Sequence[np.ndarray] | None = None,
    follows: np.ndarray | None = None,
    device: str | None = None,
) -> Traversal:
    """Find the top_k choices of one option per block with the least total loss whose total costs keep the limits, exactly.

    A total is the exact sum of the float64 values, rounded once (`math.fsum`); that number is compared with the limit. See
    `Grid` for values far smaller than the total. Equal losses are ordered by the indices, block by block. The search runs on
    torch's number of threads; the answer does not depend on it.

    losses[b]: float64 `[n_b]`. costs[b]: int64 or float64 `[n_b, m]` or `[n_b]`.
    limits, at_least: upper and lower bounds `[m]`, inclusive, None for no bound.
    state_in[b], state_out[b]: boundary states, int `[n_b]`: an option follows one whose state_out equals its state_in. The first
        block's state_in and the last one's state_out are free.
    follows: bool `[S, S]`, replaces equality by `follows[state_out, state_in]`.
    device: "cpu", or "cuda" (or "cuda:N"), where a list that has grown long goes on on the GPU; None: "cuda" where there is
    one, one to four limits and 2**36 choices or more. The answer does not depend on it.

    Raises:
        InputError: NaN, infinite, negative costs, overflowing sums, empty blocks, lengths that do not match, a device that is
            not there.
        InfeasibleError: no choice keeps the limits; the message says the least cost that can be reached and which limits clash.
    """
    name = "traverse"
    problem, table = read_problem(name, losses, costs, state_in, state_out, follows)
    upper = _per_cost(name, "limits", limits, table.shape[1])
    lower = _per_cost(name, "at_least", at_least, table.shape[1])
    problem.limits = [Limit(f"cost {d}", u, l) for d, (u, l) in enumerate(zip(upper, lower))]
    problem.device = device
    choices = run(problem, top_k)
    choices.costs = choices.costs.astype(table.dtype if np.issubdtype(table.dtype, np.integer) else np.float64)
    return choices


def read_problem(
    name: str,
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    state_in: Sequence[np.ndarray] | None,
    state_out: Sequence[np.ndarray] | None,
    follows: np.ndarray | None,
) -> tuple[Problem, np.ndarray]:
    """Check the arrays; returns the problem, still without limits, and the costs as given `[N, m]`."""
    flat, offsets = join_blocks(name, losses)
    table = _cost_table(name, costs, offsets)
    if (state_in is None) != (state_out is None):
        raise InputError(f"[{name}] expected both state_in and state_out, or neither, got one")
    if state_in is None or state_out is None:
        links = unlinked(offsets)
    else:
        links = link(name, offsets, join_blocks(name, state_in)[0], join_blocks(name, state_out)[0], follows)
    columns = [cost_column(name, "costs", np.ascontiguousarray(table[:, d]), offsets) for d in range(table.shape[1])]
    whole, grid = losses_on_grid(name, flat.astype(np.float64), offsets)
    return Problem(name, offsets, whole, grid, columns, [], links), table


def run(problem: Problem, top_k: int) -> Traversal:
    """Solve a checked problem."""
    if not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise InputError(f"[{problem.name}] expected a top_k of 1 or more, got {top_k!r}")
    costs, most, owners = problem.criteria()
    size = problem.space_size
    rows, counts, multipliers = problem.solve(problem.losses, costs, most, min(int(top_k), size))
    if len(rows) == 0:
        raise InfeasibleError(explain(problem))
    losses = problem.grid.total(problem.losses[rows].sum(axis=1))
    totals = np.empty((len(rows), len(problem.columns)), dtype=object)
    for d, column in enumerate(problem.columns):
        totals[:, d] = column.total(rows).tolist()
    first = problem.links.offsets[:-1]
    least = int(np.minimum.reduceat(problem.losses[problem.links.rows], first).sum())
    certificate = Certificate(
        space_size=size,
        visited=int(counts[1]),
        pruned=int(counts[2]),
        lower_bound=float(losses[0]),
        relaxation=float(problem.grid.total(least + math.floor(multipliers[-1]))),
        multipliers=tuple(_per_unit(problem, owners, multipliers)),
    )
    indices = rows - problem.offsets[:-1]
    return Traversal(indices, losses, totals, certificate, len(rows) < top_k, problem, multipliers[:-1])


def _per_unit(
    problem: Problem, owners: Sequence[tuple[int, int]], multipliers: np.ndarray
) -> list[tuple[float, float]]:
    """Multipliers in the user's units: loss per unit of cost, for the upper and the lower limit of every cost."""
    out = [[0.0, 0.0] for _ in problem.limits]
    for (at, side), multiplier in zip(owners, multipliers.tolist()):
        grid = problem.columns[at].grid
        out[at][side] = math.ldexp(multiplier, problem.grid.exponent - (0 if grid is None else grid.exponent))
    return [(upper, lower) for upper, lower in out]


def _cost_table(name: str, costs: Sequence[np.ndarray], offsets: np.ndarray) -> np.ndarray:
    if len(costs) != len(offsets) - 1:
        raise InputError(f"[{name}] expected costs of {len(offsets) - 1} blocks, got {len(costs)}")
    arrays = [np.asarray(block) for block in costs]
    arrays = [array[:, None] if array.ndim == 1 else array for array in arrays]
    for b, array in enumerate(arrays):
        size = int(offsets[b + 1] - offsets[b])
        if array.ndim != 2 or array.shape[0] != size or array.shape[1] != arrays[0].shape[1]:
            expected = f"[{size}, {arrays[0].shape[-1]}]"
            raise InputError(f"[{name}] expected costs of the shape {expected}, got {list(array.shape)} in block {b}")
    return np.concatenate(arrays)


def _per_cost(name: str, what: str, values: Bounds, count: int) -> list[float | None]:
    if values is None or isinstance(values, (int, float, np.number)):
        values = [values] * (count if values is None else 1)  # type: ignore[list-item]
    if len(values) != count:
        raise InputError(f"[{name}] expected {what} for {count} costs, got {len(values)}")
    for value in values:
        if value is not None and math.isnan(value):
            raise InputError(f"[{name}] expected {what} that are numbers, got {value}")
    return list(values)
