"""A quantity of whole networks as a cost: fitted to a few, beside one that is a sum and one that is none."""

import numpy as np
import pytest
from scipy import stats

from pynas import costs, spaces
from pynas.costs import Costs, LayerCosts, fitted
from pynas.errors import InputError

SIZE = spaces.nats_size("small", widths=(8, 16, 24))


def drawn(space, count, seed=0):
    rng = np.random.default_rng(seed)
    networks = {}
    while len(networks) < count:
        networks[space.sample(rng)] = None
    return list(networks)


@pytest.mark.parametrize("name", ["mbconv-mini", "nats-size", "nasbench201", "autoformer-tiny", "mbconv-boss"])
def test_a_sum_over_layers_is_found_again(name, tmp_path):
    """Of other networks than those that it is fitted to; the form is that of the space's counted costs."""
    space = spaces.get(name)
    rng = np.random.default_rng(1)
    effects = {}

    def value(network):
        places = [(b, l, k) for b, choice in enumerate(network) for l, k in enumerate(choice.path)]
        places += [(b, "cell", choice.cell) for b, choice in enumerate(network)]
        return np.exp(sum(effects.setdefault(place, rng.normal()) for place in places))  # ranks undo the exponential

    networks = drawn(space, 1000)
    values = np.array([value(network) for network in networks])
    cost = fitted(space, "good", networks[:800], values[:800])
    assert isinstance(cost, LayerCosts if name == "autoformer-tiny" else Costs)
    assert cost.metadata["fitted"]["good"]["networks"] == 800 and cost.metadata["fitted"]["good"]["tau"] > 0.95
    found = [cost.of(network)["good"] for network in networks[800:]]
    assert stats.kendalltau(found, values[800:]).statistic > 0.95
    cost.save(tmp_path / "cost.npz")
    again = costs.load(tmp_path / "cost.npz")
    assert [again.of(network) for network in networks[:5]] == [cost.of(network) for network in networks[:5]]
    assert again.metadata["fitted"] == cost.metadata["fitted"]


def test_what_is_no_sum_says_so():
    networks = list(SIZE.architectures())
    parity = np.array([sum(map(sum, (choice.path for choice in network))) % 2 for network in networks], float)
    noise = np.random.default_rng(0).normal(0, 1e-3, len(networks))
    assert abs(fitted(SIZE, "parity", networks, parity + noise).metadata["fitted"]["parity"]["tau"]) < 0.2


def test_refusals():
    networks = drawn(SIZE, 12)
    for few, values, text in [
        (networks[:9], np.arange(9), "at least 10 different architectures with a finite good each, got 9"),
        (networks[:1] * 12, np.arange(12), "got 1 architectures"),
        (networks, np.arange(11), "12 architectures and 11 values"),
        (networks, [np.nan, *range(11)], "finite good"),
        (networks, np.ones(12), "differs between architectures, got 1 for each"),
    ]:
        with pytest.raises(InputError, match=text):
            fitted(SIZE, "good", few, values)
