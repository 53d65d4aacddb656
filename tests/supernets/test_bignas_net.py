"""BigNAS's supernet: extraction, batch norm re-estimated on export, sizes of the published range."""

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import cost_range, count, count_module, latency
from pynas.errors import InputError
from pynas.evaluation.error_rate import ErrorRate
from pynas.spaces import Architecture, bignas
from pynas.spaces.bignas import Stage
from tests.enumeration import enumerated


@pytest.fixture
def net():
    torch.manual_seed(0)
    stages = (Stage((8, 12), (1, 2), (3,), 1, 1), Stage((12, 16), (1, 3), (3, 5), 3, 2))
    return pynas.supernet(bignas("own", (16, 24), (8, 12), stages, (20, 24)), 5)


def test_extracted_networks_give_the_same(net):
    rng, images = np.random.default_rng(0), torch.randn(2, 3, 24, 24)
    for training in (True, False):
        net.train(training)
        for _ in range(4):
            architecture = net.space.sample(rng)
            model = pynas.export.subnet(net, architecture)
            torch.testing.assert_close(model(images), net(images, architecture), rtol=1e-4, atol=1e-5)
            assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_batch_norm_is_re_estimated_on_export(net):
    net.train()
    images, architecture = 3 * torch.randn(64, 3, 24, 24) + 1, net.space.sample(np.random.default_rng(1))
    model = pynas.export.subnet(net, architecture)
    pynas.export.recalibrate(model, [(images, torch.zeros(64))])
    expected = net(images, architecture)
    model.eval()
    # The batch's own statistics, up to the factor of the unbiased variance.
    torch.testing.assert_close(model(images), expected, rtol=0.02, atol=0.02)
    net.eval()
    assert (net(images, architecture) - expected).abs().max() > 0.05


def test_batch_norm_is_re_estimated_for_a_rating(net):
    """Each architecture's error with statistics of its own, as the extracted network has them; then all is as before."""
    batches = [(torch.randn(16, 3, 24, 24), torch.randint(5, (16,))) for _ in range(2)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rating, rng = ErrorRate(net, batches, batches), np.random.default_rng(2)
    for _ in range(3):
        architecture = net.space.sample(rng)
        model = net.extract(architecture)
        pynas.export.recalibrate(model, batches)
        model.eval()
        wrong = sum((model(images).argmax(1) != labels).sum().item() for images, labels in batches)
        assert rating(architecture) == pytest.approx(wrong / 32)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_cost_tables_are_those_of_the_extracted_networks(net):
    """Every cost of every architecture of a small space; and its latency from the sums of its parts."""
    space, shape = net.space, (3, 24, 24)
    costs, everything = count(net, shape), enumerated(net.space)
    assert len(everything) == space.size == 2 * 2 * (2 * 2) * (2 * (2 + 8)) * 2
    for architecture in everything[::40]:
        assert costs.of(architecture) == count_module(net.extract(architecture), shape)[0]
    spent = [costs.of(architecture)["madds"] for architecture in everything]
    assert cost_range(space, costs, "madds") == (min(spent), max(spent))
    timed = latency(net, shape, repeats=1, warm_up=0)
    assert all(timed.of(architecture)["latency"] > 0 for architecture in everything[::100])


@pytest.mark.slow
def test_costs_of_the_whole_space():
    """Any of the 20,235,504,844,800 architectures; a few drawn, and both ends."""
    space = pynas.spaces.get("bignas-cnn")
    with torch.device("meta"):
        net = pynas.supernet(space, 1000)
    costs, rng = count(net, (3, 320, 320)), np.random.default_rng(0)
    for architecture in [*(space.sample(rng) for _ in range(4)), *ends(space)]:
        assert costs.of(architecture) == count_module(net.extract(architecture), (3, 320, 320))[0]
    assert cost_range(space, costs, "params") == tuple(costs.of(a)["params"] for a in ends(space))


def ends(space):
    """The smallest and the largest architecture."""
    least = Architecture.of((0, [0] * len(cells[0].layers)) for cells in space.blocks)
    return least, Architecture.of((len(cells) - 1, [n - 1 for n in cells[-1].counts]) for cells in space.blocks)


def test_the_published_range_of_madds():
    """PreNAS's networks have 237 to 986 million MAdds; the space goes from below to above."""
    space = pynas.spaces.get("bignas-cnn")
    with torch.device("meta"):
        net = pynas.supernet(space, 1000)
    side = space.image_size
    least, most = (count_module(net.extract(a), (3, side, side))[0]["madds"] for a in ends(space))
    assert least < 237e6 and most > 986e6


def test_bad_input_is_named(net):
    with pytest.raises(InputError, match="at least one class"):
        pynas.supernets.build.BigNAS(net.space, 0)
    with pytest.raises(InputError, match="blocks"):
        net.extract("0|0")
