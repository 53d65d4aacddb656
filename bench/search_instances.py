"""The instances that the search is measured on, all from a fixed seed.

Losses are whole multiples of a unit, so that solvers of integers and those of floats get equal problems.
`mbconv-dna`: pools of its sizes; costs are sums over layers, as a network's are; losses fall with cost, with noise.
`NxM`: N blocks of M options, integer costs uniform up to a million. Plain: losses uniform, independent of the costs.
`correlated`: loss = 1 - mean cost / 1e6 + normal noise of 0.1. `very correlated`: noise of 0.01, so that a large part of
every pool is undominated and lies close to the relaxation. `equal losses`: all 0, so that the first choice within tight limits is
sought. `subset sum of N`: two options, the loss of the second is minus its first cost; the bounds leave nothing out.
`CLASS KxN RR`: K classes of N items of the literature's classes, see bench/knapsacks.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.knapsacks import KINDS, generate


@dataclass
class Instance:
    """whole[b] int64 `[n_b]`, losses in units; costs[b] int64 `[n_b, m]`, limits `[m]`."""

    whole: list[np.ndarray]
    costs: list[np.ndarray]
    limits: list[int]
    top_k: int = 1
    unit: float = 1.0

    @property
    def losses(self) -> list[np.ndarray]:
        """Losses float64 `[n_b]`, exact."""
        return [block * self.unit for block in self.whole]

    def total(self, choice: Sequence[int]) -> int:
        """The loss of a choice in units, exact."""
        return sum(int(block[i]) for block, i in zip(self.whole, choice))

    def over(self, choice: Sequence[int]) -> int:
        """By how much a choice breaks a limit at most; 0 or less where it keeps them."""
        spent = sum(block[i] for block, i in zip(self.costs, choice))
        return int(max(spent - np.array(self.limits)))


# DNA table 1: layers of each cell; with 6 candidates per layer, 288, 1548, 1548, 2808, 16848, 6 paths per block.
MBCONV_DNA = [(2, 3, 2), (2, 3, 4), (2, 3, 4), (3, 4, 4), (4, 5, 5), (1,)]
# MB{6,3} x k{3,5,7}: relative cost per criterion (MAdds, parameters, latency) of each candidate.
CANDIDATES = np.array(
    [
        [1.00, 1.00, 1.00],
        [1.10, 1.04, 1.25],
        [1.25, 1.10, 1.60],
        [0.50, 0.49, 0.62],
        [0.55, 0.51, 0.75],
        [0.62, 0.54, 0.94],
    ]
)


def _mbconv_dna(criteria: int, tightness: float = 0.6, top_k: int = 1, noise: float = 0.08, seed: int = 0) -> Instance:
    """Pools as large as mbconv-dna's: additive integer costs per layer, losses that fall with cost, noise per path."""
    rng = np.random.default_rng(seed)
    losses, costs = [], []
    for cells in MBCONV_DNA:
        block = []
        for layers in cells:
            scale = rng.uniform(5e6, 3e7, (layers, 1, 3)) * rng.uniform(0.97, 1.03, (layers, 6, 3))
            each = np.rint(scale * CANDIDATES).astype(np.int64)  # [layers, 6, 3]
            paths = np.array(list(itertools.product(range(6), repeat=layers)))
            block.append(each[np.arange(layers), paths].sum(1))
        cost = np.concatenate(block)
        benefit = (np.log(cost) - np.log(cost.min(0))).mean(1)
        losses.append(1.5 - 0.4 * benefit + rng.normal(0, noise, len(cost)))
        costs.append(np.ascontiguousarray(cost[:, :criteria]))
    return _rounded(losses, costs, _limits(costs, tightness), top_k)


def _pools(sizes: list[int], noise: float | None, criteria: int = 1, top_k: int = 1, seed: int = 0) -> Instance:
    """Integer costs up to a million; loss = 1 - mean cost / 1e6 + noise, or independent of the costs."""
    rng = np.random.default_rng(seed)
    costs = [rng.integers(1, 1_000_000, (n, criteria)) for n in sizes]
    if noise is None:
        losses = [rng.uniform(0, 1, n) for n in sizes]
    else:
        losses = [1 - block.mean(1) / 1e6 + rng.normal(0, noise, len(block)) for block in costs]
    return _rounded(losses, costs, _limits(costs, 0.5), top_k)


def _equal(sizes: list[int], criteria: int, tightness: float) -> Instance:
    """Losses of 0, integer costs up to a million."""
    costs = _pools(sizes, None, criteria).costs
    return Instance([np.zeros(size, np.int64) for size in sizes], costs, _limits(costs, tightness))


def _subset_sum(count: int, criteria: int, seed: int = 0) -> Instance:
    """Weights up to 1,000 and further costs as large, half of all of which may be taken."""
    weights = np.random.default_rng(seed).integers(1, 1000, (count, criteria))
    costs = [np.stack([np.zeros_like(weight), weight]) for weight in weights]
    return Instance([-cost[:, 0] for cost in costs], costs, _limits(costs, 0.5))


def _rounded(losses: list[np.ndarray], costs: list[np.ndarray], limits: list[int], top_k: int) -> Instance:
    """Losses to 2**-40, finer than any that was measured; all options together stay below 2**62."""
    return Instance([np.rint(block * 2.0**40).astype(np.int64) for block in losses], costs, limits, top_k, 2.0**-40)


def _limits(costs: list[np.ndarray], tightness: float) -> list[int]:
    """Between the least and the greatest total: least + tightness * (greatest - least)."""
    least = np.sum([block.min(0) for block in costs], axis=0)
    most = np.sum([block.max(0) for block in costs], axis=0)
    return [int(value) for value in least + tightness * (most - least)]


def _knapsack(kind: str, classes: int, items: int, most: int) -> Instance:
    weights, profits, capacity = generate(kind, classes, items, most)
    return Instance([-block for block in profits], [block[:, None] for block in weights], [capacity])


OWN: dict[str, Callable[[], Instance]] = {
    "mbconv-dna": lambda: _mbconv_dna(1),
    "mbconv-dna, top-1000": lambda: _mbconv_dna(1, top_k=1000),
    "mbconv-dna, top-10000": lambda: _mbconv_dna(1, top_k=10_000),
    "mbconv-dna, 2 limits": lambda: _mbconv_dna(2),
    "mbconv-dna, 3 limits": lambda: _mbconv_dna(3),
    "6x7776": lambda: _pools([7776] * 6, None),
    "6x46656": lambda: _pools([46656] * 6, None),
    "6x46656 correlated": lambda: _pools([46656] * 6, 0.1),
    "6x1296 correlated": lambda: _pools([1296] * 6, 0.1),
    "6x1296 very correlated": lambda: _pools([1296] * 6, 0.01),
    "6x1296 correlated, 2 limits": lambda: _pools([1296] * 6, 0.1, 2),
    "6x1296 correlated, 3 limits": lambda: _pools([1296] * 6, 0.1, 3),
    "36x50 very correlated, 3 limits": lambda: _pools([50] * 36, 0.01, 3),
    "80x54 very correlated, 3 limits": lambda: _pools([54] * 80, 0.01, 3),
    "12x40 equal losses, 3 limits": lambda: _equal([40] * 12, 3, 0.2),
    "subset sum of 48, 2 limits": lambda: _subset_sum(48, 2),
    "36x50": lambda: _pools([50] * 36, None),
    "36x50 correlated": lambda: _pools([50] * 36, 0.1),
    "80x54": lambda: _pools([54] * 80, None),
    "80x54 correlated": lambda: _pools([54] * 80, 0.1),
    "20x316": lambda: _pools([316] * 20, None),
    "20x316 correlated": lambda: _pools([316] * 20, 0.1),
}
# Of the literature: every class of instances at every size and range of coefficients.
LITERATURE: dict[str, Callable[[], Instance]] = {
    f"{kind} {classes}x{items} R{most}": functools.partial(_knapsack, kind, classes, items, most)
    for kind, most, classes, items in itertools.product(KINDS, (1000, 10_000), (10, 100, 1000), (10, 100, 1000))
}
INSTANCES = OWN | LITERATURE
