"""Exact search on plain arrays: the top_k choices, one option per block, within all limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pynas.errors import InfeasibleError, InputError
from pynas.ops.traversal import traverse as traverse_operator
from pynas.search.certificate import Certificate
from pynas.search.problem import Column, Grid, cost_column, join_blocks, losses_on_grid


@dataclass(frozen=True)
class Limit:
    """Bounds on the total of one cost, both inclusive; None where there is none."""

    name: str
    upper: float | None = None
    lower: float | None = None


@dataclass
class Problem:
    """A checked search problem: options of all blocks in one row each, everything whole numbers."""

    name: str
    offsets: np.ndarray
    losses: np.ndarray
    grid: Grid
    columns: Sequence[Column]
    limits: Sequence[Limit]

    @property
    def blocks(self) -> int:
        return len(self.offsets) - 1

    @property
    def space_size(self) -> int:
        """Number of choices, exact."""
        return math.prod(int(n) for n in np.diff(self.offsets))

    def criteria(self, which: Sequence[Limit] | None = None) -> tuple[np.ndarray, np.ndarray, list[Limit]]:
        """Costs `[N, M]` that must not exceed `[M]`, a lower limit negated, and whose limit each is; the idle ones left out."""
        costs, most, owners = [], [], []
        for column, limit in zip(self.columns, self.limits):
            if which is not None and limit not in which:
                continue
            upper = None if limit.upper is None or limit.upper == math.inf else column.most(limit.upper)
            lower = None if limit.lower is None or limit.lower <= 0 else column.least(limit.lower)
            if upper is not None and upper < np.maximum.reduceat(column.whole, self.offsets[:-1]).sum():
                costs.append(column.whole)
                most.append(max(upper, -(2**61)))
                owners.append(limit)
            if lower is not None and lower > np.minimum.reduceat(column.whole, self.offsets[:-1]).sum():
                costs.append(-column.whole)
                most.append(max(-lower, -(2**62)))
                owners.append(limit)
        stacked = np.stack(costs, axis=1) if costs else np.zeros((self.offsets[-1], 0), np.int64)
        return stacked, np.array(most, dtype=np.int64), owners

    def solve(self, losses: np.ndarray, costs: np.ndarray, most: np.ndarray, top_k: int) -> tuple[np.ndarray, ...]:
        """The kernel on these criteria: indices `[found, B]`, counts, multipliers."""
        arrays = (self.offsets, losses, np.ascontiguousarray(costs), most)
        indices, counts, multipliers = traverse_operator(*map(torch.from_numpy, arrays), top_k=top_k)
        return indices.numpy()[: int(counts[0])], counts.numpy(), multipliers.numpy()


@dataclass
class Traversal:
    """The top_k choices, best first: indices int64 `[k, B]`, losses float64 `[k]`, costs `[k, m]`, and the certificate.

    exhausted: there are fewer than top_k choices within the limits, and these are all of them.
    """

    indices: np.ndarray
    losses: np.ndarray
    costs: np.ndarray
    certificate: Certificate
    exhausted: bool
    problem: Problem = field(repr=False)

    def __len__(self) -> int:
        return len(self.losses)


def traverse(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    limits: Sequence[float | None] | float,
    top_k: int = 1,
    *,
    at_least: Sequence[float | None] | float | None = None,
) -> Traversal:
    """The top_k choices of one option per block with the least total loss, all total costs within the limits; exact.

    losses[b]: float64 `[n_b]`. costs[b]: int64 or float64 `[n_b, m]` or `[n_b]`. limits: `[m]`, inclusive, None for none;
    at_least: lower limits likewise. A total is the exact sum of the float64 values, rounded once (`math.fsum`); equal
    losses are ordered by the indices, block by block. Runs on torch's number of threads; the answer does not depend on it.

    Raises:
        InputError: NaN, infinite, negative costs, overflowing sums, empty blocks, lengths that do not match.
        InfeasibleError: no choice keeps the limits; says the least cost that can be reached, and which limits clash.
    """
    name = "traverse"
    flat, offsets = join_blocks(name, losses)
    table = _cost_table(name, costs, offsets)
    upper = _per_cost(name, "limits", limits, table.shape[1])
    lower = _per_cost(name, "at_least", at_least, table.shape[1])
    columns = [cost_column(name, "costs", np.ascontiguousarray(table[:, d]), offsets) for d in range(table.shape[1])]
    names = [Limit(f"cost {d}", upper[d], lower[d]) for d in range(len(columns))]
    whole, grid = losses_on_grid(name, flat.astype(np.float64), offsets)
    found = run(Problem(name, offsets, whole, grid, columns, names), top_k)
    found.costs = found.costs.astype(table.dtype if np.issubdtype(table.dtype, np.integer) else np.float64)
    return found


def run(problem: Problem, top_k: int) -> Traversal:
    """Solve a checked problem."""
    if not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise InputError(f"[{problem.name}] expected a top_k of 1 or more, got {top_k!r}")
    costs, most, owners = problem.criteria()
    size = problem.space_size
    rows, counts, multipliers = problem.solve(problem.losses, costs, most, min(int(top_k), size))
    if len(rows) == 0:
        raise InfeasibleError(_infeasible(problem))
    picked = rows + problem.offsets[:-1]
    losses = np.array([problem.grid.total(int(total)) for total in problem.losses[picked].sum(axis=1)])
    totals = np.array([[column.total(row) for column in problem.columns] for row in picked], dtype=object)
    least = int(np.minimum.reduceat(problem.losses, problem.offsets[:-1]).sum())
    certificate = Certificate(
        space_size=size,
        visited=int(counts[1]),
        pruned=int(counts[2]),
        lower_bound=float(losses[0]),
        relaxation=problem.grid.total(least + math.floor(multipliers[-1])),
        multipliers=tuple(_per_unit(problem, owners, multipliers)),
    )
    return Traversal(rows, losses, totals.reshape(len(rows), -1), certificate, len(rows) < top_k, problem)


def _per_unit(problem: Problem, owners: Sequence[Limit], multipliers: np.ndarray) -> list[float]:
    """Loss per unit of cost, in the user's units, by limit."""
    out = [0.0] * len(problem.limits)
    for owner, multiplier in zip(owners, multipliers):
        at = next(d for d, limit in enumerate(problem.limits) if limit is owner)
        grid = problem.columns[at].grid
        scale = problem.grid.exponent - (0 if grid is None else grid.exponent)
        out[at] = out[at] + math.ldexp(float(multiplier), scale)
    return out


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


def _per_cost(name: str, what: str, values: Sequence[float | None] | float | None, count: int) -> list[float | None]:
    listed = [values] * count if values is None else list(values) if np.ndim(values) else [values]  # type: ignore[arg-type]
    if len(listed) != count:
        raise InputError(f"[{name}] expected {what} for {count} costs, got {len(listed)}")
    for value in listed:
        if value is not None and math.isnan(value):
            raise InputError(f"[{name}] expected {what} that are numbers, got {value}")
    return listed


def _infeasible(problem: Problem) -> str:
    """The message: what can be reached at least (or at most) for each limit, and the smallest set that clashes."""
    reach = []
    for column, limit in zip(problem.columns, problem.limits):
        if limit.upper is not None and limit.upper != math.inf:
            reach.append(
                f"{limit.name} <= {limit.upper:g}: the least that can be reached is {_extreme(problem, column, 1)}"
            )
        if limit.lower is not None:
            reach.append(
                f"{limit.name} >= {limit.lower:g}: the most that can be reached is {_extreme(problem, column, -1)}"
            )
    clash = " and ".join(limit.name for limit in _clash(problem))
    return f"[{problem.name}] no choice keeps the limits ({'; '.join(reach)}); what cannot be kept: {clash}"


def _extreme(problem: Problem, column: Column, sign: int) -> float:
    none = np.zeros((problem.offsets[-1], 0), np.int64)
    rows, _, _ = problem.solve(sign * column.whole, none, np.zeros(0, np.int64), 1)
    return column.total(rows[0] + problem.offsets[:-1])


def _clash(problem: Problem) -> Sequence[Limit]:
    nothing = np.zeros_like(problem.losses)
    for size in range(1, len(problem.limits)):
        for subset in itertools.combinations(problem.limits, size):
            costs, most, _ = problem.criteria(subset)
            if len(problem.solve(nothing, costs, most, 1)[0]) == 0:
                return subset
    return problem.limits
