"""traverse against algorithm 2 as printed and against scipy's MILP."""

import numpy as np
import pytest
import scipy.optimize

from bench.algorithm_2 import algorithm_2
from pynas.search import traverse

pytestmark = pytest.mark.usefixtures("kernels")


def instance(seed, sizes, noise=0.1):
    rng = np.random.default_rng(seed)
    costs = [rng.integers(1, 1000, n) for n in sizes]
    losses = [2 - block / 1e3 + rng.normal(0, noise, len(block)) for block in costs]
    return losses, costs, int(500 * len(sizes))


@pytest.mark.parametrize("seed", range(20))
def test_equals_algorithm_2(seed):
    losses, costs, limit = instance(seed, [6, 9, 3, 12])
    choice, finished = algorithm_2(losses, costs, limit)
    assert finished
    assert traverse(losses, costs, limit).indices.tolist() == [choice]


def test_algorithm_2_says_when_it_did_not_finish():
    losses, costs, limit = instance(0, [100] * 6)
    assert algorithm_2(losses, costs, limit, seconds=0.1)[1] is False


def test_algorithm_2_finds_nothing_where_nothing_fits():
    losses, costs, _ = instance(0, [3, 4])
    assert algorithm_2(losses, costs, -1) == (None, True)


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_equals_milp(limits):
    rng = np.random.default_rng(limits)
    costs = [rng.integers(1, 1000, (150, limits)) for _ in range(6)]
    losses = [2 - block.mean(1) / 1e3 + rng.normal(0, 0.1, len(block)) for block in costs]
    most = [2600] * limits
    found = traverse(losses, costs, most)
    one_each = np.kron(np.eye(6), np.ones(150))
    answer = scipy.optimize.milp(
        np.concatenate(losses),
        integrality=np.ones(900),
        bounds=(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint(np.concatenate(costs).T.astype(float), -np.inf, most),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert answer.status == 0
    chosen = np.flatnonzero(answer.x > 0.5)
    assert found.losses[0] == pytest.approx(np.concatenate(losses)[chosen].sum(), abs=1e-9)
