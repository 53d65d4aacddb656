"""BigNAS's supernet: extraction, batch norm re-estimated on export, sizes of the published range."""

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.spaces import bignas
from pynas.spaces.bignas import Stage


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


def test_the_published_range_of_madds():
    """PreNAS's networks have 237 to 986 million MAdds; the space goes from below to above."""
    space = pynas.spaces.get("bignas-cnn")
    with torch.device("meta"):
        net = pynas.supernet(space, 1000)
    first = pynas.spaces.Architecture.of([(0, [0] * len(cells[0].layers)) for cells in space.blocks])
    last = pynas.spaces.Architecture.of(
        [(len(cells) - 1, [count - 1 for count in cells[-1].counts]) for cells in space.blocks]
    )
    side = space.image_size
    least, most = (count_module(net.extract(a), (3, side, side))[0]["madds"] for a in (first, last))
    assert least < 237e6 and most > 986e6


def test_bad_input_is_named(net):
    with pytest.raises(InputError, match="at least one class"):
        pynas.supernets.build.BigNAS(net.space, 0)
    with pytest.raises(InputError, match="blocks"):
        net.extract("0|0")
