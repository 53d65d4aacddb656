"""Independent check of a search's answer in plain numpy, without dominance and without the kernel."""

from __future__ import annotations

import itertools

import numpy as np

from pynas.search.problem import Problem

_CHUNK = 1 << 21  # partial choices times options in one step, which bounds the memory


class VerificationError(RuntimeError):
    """The answer is not exact."""


def verify(problem: Problem, rows: np.ndarray, exhausted: bool, multipliers: np.ndarray) -> int:
    """Check that rows int64 `[k, B]` are the first k choices within the limits, in order.

    Sums and limits are recomputed. Then all choices up to the last one (if exhausted, all choices) are counted by enumeration.
    The enumeration is cut only where exact costs break a limit, or where the Lagrangian bound with `multipliers` `[M]` exceeds
    the last loss; any multipliers >= 0 are valid, good ones are fast. Returns the number of partial choices seen.

    Raises:
        VerificationError: a check fails; the message says which.
    """
    costs, most, _ = problem.criteria()
    totals = [sum(int(problem.losses[row]) for row in choice) for choice in rows]
    for choice in rows.tolist():
        spent = [sum(int(costs[row, d]) for row in choice) for d in range(len(most))]
        _require(
            all(s <= m for s, m in zip(spent, most.tolist())), f"the choice {choice} within the limits, got {spent}"
        )
    keys = [(total, *choice) for total, choice in zip(totals, rows.tolist())]
    _require(
        all(a < b for a, b in itertools.pairwise(keys)), "different choices in order of loss and indices, got others"
    )
    counter = _Counter(problem, costs, most, multipliers, None if exhausted else keys[-1])
    count = counter.count()
    _require(count == len(rows), f"{len(rows)} choices up to the last one found, got {count}")
    return counter.seen


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise VerificationError(f"[verify] expected {message}")


class _Counter:
    """Counts the choices within the limits whose (loss, rows) is `last` or comes before it."""

    def __init__(self, problem: Problem, costs, most, multipliers, last) -> None:
        links = problem.links
        self.last = last
        self.most = most
        self.seen = 0
        # Per block: option rows, losses, costs, values, states.
        cuts = links.offsets[1:-1]
        self.rows = np.split(links.rows, cuts)
        self.losses = [problem.losses[rows] for rows in self.rows]
        self.costs = [costs[rows] for rows in self.rows]
        self.values = [loss + cost @ multipliers for loss, cost in zip(self.losses, self.costs)]
        self.starts, self.stops = np.split(links.state_in, cuts), np.split(links.state_out, cuts)
        self._least_ahead(links.states)
        if last is not None:
            scale = sum(np.abs(v).max() for v in self.values) + np.abs(most.astype(np.float64)) @ multipliers
            # Allows for rounding of the values: a wider cut only costs time.
            self.reach = last[0] + most @ multipliers + 1e-12 * (scale + 1)

    def _least_ahead(self, states: int) -> None:
        blocks = len(self.rows)
        far = 2**61
        self.value_ahead = np.full((blocks + 1, states), np.inf)
        self.loss_ahead = np.full((blocks + 1, states), far)
        self.cost_ahead = np.full((blocks + 1, states, len(self.most)), far)
        self.value_ahead[-1], self.loss_ahead[-1], self.cost_ahead[-1] = 0, 0, 0
        for b in range(blocks - 1, -1, -1):
            stop = self.stops[b]
            np.minimum.at(self.value_ahead[b], self.starts[b], self.values[b] + self.value_ahead[b + 1][stop])
            np.minimum.at(self.loss_ahead[b], self.starts[b], self.losses[b] + self.loss_ahead[b + 1][stop])
            np.minimum.at(self.cost_ahead[b], self.starts[b], self.costs[b] + self.cost_ahead[b + 1][stop])

    def count(self) -> int:
        # Partial choices: loss, costs, value, state, and order against `last` (-1 before, 0 equal so far, 1 after).
        start = (np.zeros(1, np.int64), np.zeros((1, len(self.most)), np.int64), np.zeros(1))
        stack = [(0, (*start, np.zeros(1, np.int64), np.zeros(1, np.int64)))]
        counted = 0
        while stack:
            b, partial = stack.pop()
            if b == len(self.rows):
                counted += len(partial[0])
                continue
            step = max(1, _CHUNK // len(self.rows[b]))
            for begin in range(0, len(partial[0]), step):
                onward = self._extend(b, tuple(array[begin : begin + step] for array in partial))
                if len(onward[0]):
                    stack.append((b + 1, onward))
        return counted

    def _extend(self, b: int, partial):
        loss, cost, value, state, order = partial
        joined = state[:, None] == self.starts[b]
        self.seen += int(joined.sum())
        if self.last is not None:
            joined &= value[:, None] + (self.values[b] + self.value_ahead[b + 1][self.stops[b]]) <= self.reach
        left, right = np.nonzero(joined)
        stop = self.stops[b][right]
        loss, cost = loss[left] + self.losses[b][right], cost[left] + self.costs[b][right]
        kept = (cost + self.cost_ahead[b + 1][stop] <= self.most).all(axis=1)
        order = order[left]
        if self.last is not None:
            order = np.where(order == 0, np.sign(self.rows[b][right] - self.last[b + 1]), order)
            kept &= loss + self.loss_ahead[b + 1][stop] <= self.last[0] - (order == 1)
        value = value[left] + self.values[b][right]
        return tuple(array[kept] for array in (loss, cost, value, stop, order))
