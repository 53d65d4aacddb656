"""Pair sums of two fronts with dominance filtering: python -m bench.pareto. Shapes: two halves of a space, 10^4 to 10^8 pairs.

Against the CPU's kernel and eager torch: all sums, sorted by cost, a running minimum (one cost only; memory for every pair).
"""

from __future__ import annotations

import torch

from bench import _timer
from bench._command import run
from pynas.ops.pareto import pareto_filter, pareto_pairs

# Costs, points of which the fronts are the undominated ones.
CASES = [(1, 2_000), (1, 20_000), (1, 100), (1, 100_000), (1, 500_000), (2, 500), (2, 10_000), (2, 40_000)]


def random_front(size: int, costs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The undominated of `size` random points: loss falls as the costs' sum rises, with noise; values below 2**40."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randint(0, 2**39, (size, costs), generator=generator)
    noise = torch.randint(0, 2 ** (32 if costs == 1 else 37), (size,), generator=generator)
    loss = 2**39 - cost.sum(1) // costs + noise
    kept = pareto_filter(loss, cost)
    return loss[kept], cost[kept]


def eager(left_loss, left_cost, right_loss, right_cost) -> torch.Tensor:
    """One cost, no equal sums: (left, right) pairs in order."""
    loss, cost = (left_loss[:, None] + right_loss).flatten(), (left_cost + right_cost.T).flatten()
    order = cost.argsort()
    least = loss[order].cummin(0).values
    kept = torch.cat([order[:1], order[1:][least[1:] < least[:-1]]]).sort().values
    return torch.stack([kept // len(right_loss), kept % len(right_loss)], dim=1)


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    options.repeats = min(options.repeats, 5)
    for costs, points in _timer.some(CASES, options):
        left, right = random_front(points, costs, 0), random_front(points, costs, 1)
        sides = [tensor.to(options.device) for tensor in (*left, *right)]
        pairs = len(left[0]) * len(right[0])
        found = pareto_pairs(*sides)
        assert torch.equal(found.cpu(), pareto_pairs(*left, *right))
        functions = {"pynas": lambda sides=sides: pareto_pairs(*sides)}
        if options.device.startswith("cuda"):
            functions["CPU"] = lambda left=left, right=right: pareto_pairs(*left, *right)
        if costs == 1 and pairs < 5e7:
            assert torch.equal(found, eager(*sides))
            functions["eager"] = lambda sides=sides: eager(*sides)
        case = f"{costs} costs, {len(left[0])} x {len(right[0])} = {pairs:.1e} pairs, {len(found)} kept"
        # Every pair's sums are made twice, from operands in cache: bytes of the sums.
        _timer.report("pareto_pairs", case, 16 * pairs * (1 + costs), functions, options, 1, waits=True)


if __name__ == "__main__":
    run(main)
