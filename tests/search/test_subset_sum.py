"""Subset sums, which no bound prunes: the search goes over the limit, and finds the first best choice all the same."""

import itertools

import numpy as np
import pytest
import torch

from pynas import search
from pynas.ops.traversal import traverse

pytestmark = pytest.mark.usefixtures("kernels")


def first_subset(weights, limit):
    """The first choice, in lexicographic order, whose weights sum to the greatest reachable sum within the limit."""
    reachable = [1]  # bits: sums of the last n weights
    for w in reversed(weights):
        reachable.append(reachable[-1] | reachable[-1] << w)
    rest = (reachable[-1] & ((1 << limit + 1) - 1)).bit_length() - 1
    choice = []
    for w, ahead in zip(weights, reversed(reachable[:-1])):
        choice.append(0 if ahead >> rest & 1 else 1)
        rest -= w * choice[-1]
    return choice


@pytest.mark.parametrize("seed", range(3))
def test_a_large_subset_sum(seed):
    weights = np.random.default_rng(seed).integers(1, 1000, 200).tolist()
    limit = sum(weights) // 2
    found = search.traverse([np.array([0.0, -w]) for w in weights], [np.array([0, w]) for w in weights], [limit])
    assert found.losses[0] == -limit == -sum(w for w, taken in zip(weights, found.indices[0]) if taken)
    assert found.indices[0].tolist() == first_subset(weights, limit)


@pytest.mark.parametrize("seed", range(20))
def test_short_lists_give_the_answer_of_long_ones(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4, 12)
    offsets = torch.tensor([0, *itertools.accumulate(sizes.tolist())])
    costs = torch.from_numpy(rng.integers(0, 4, (int(offsets[-1]), 1))) * 3
    losses = -costs[:, 0] + torch.from_numpy(rng.integers(0, 2, int(offsets[-1])))
    limit = torch.tensor([int(rng.integers(20, 60))])
    long, short = (traverse(offsets, losses, costs, limit, longest=longest)[0] for longest in (1 << 20, 40))
    assert torch.equal(long, short)
