"""Pi-NAS's supernet: published networks counted exactly, the shared shortcut."""

import numpy as np
import pytest
import timm
import torch

import pynas
from pynas import costs, export, spaces

# Candidates per layer, parameters, MAdds in G at 224x224, of the released models and of four uniform ones.
MODELS = {
    "cls": ("3013231203213032", 27_048_648, 5.3323),
    "trans": ("3333113330011021", 27_039_016, 5.2536),
    "all 1s1x64d": ("0" * 16, 26_217_896, 5.3699),
    "ResNeSt-50": ("1" * 16, 27_483_240, 5.3712),
    "all 1s2x42d": ("2" * 16, 27_496_260, 5.5190),
    "all 2s2x40d": ("3" * 16, 26_943_792, 5.1785),
}


@pytest.fixture(scope="module")
def counted():
    with torch.device("meta"):
        net = pynas.supernet("splitattention", 1000)
    return net.space, costs.count(net, (3, 224, 224))


def architecture_of(space, digits):
    return space.parse("|".join((digits[:3], digits[3:7], digits[7:13], digits[13:])))


@pytest.mark.parametrize("name", MODELS)
def test_published_parameters_and_madds(counted, name):
    space, table = counted
    digits, params, madds = MODELS[name]
    found = table.of(architecture_of(space, digits))
    assert (found["params"], round(found["madds"] / 1e9, 4)) == (params, madds)


def test_size(counted):
    assert counted[0].size == 4**16


def test_resnest_50_is_timms_network():
    space = spaces.get("splitattention")
    torch.manual_seed(0)
    theirs = timm.create_model("resnest50d", num_classes=7).eval()
    with torch.device("meta"):
        ours = export.subnet(pynas.supernet(space, 7), architecture_of(space, "1" * 16))
    state = {
        name: value for (name, _), value in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
    }
    ours.load_state_dict(state, assign=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images))


def test_candidates_share_the_shortcut_and_nothing_else():
    net = pynas.supernet("splitattention-mini", 3)
    for block in net.blocks:
        first, *rest = block[0][0]
        for other in rest:
            common = {id(p) for p in first.parameters()} & {id(p) for p in other.parameters()}
            assert common == {id(p) for p in first.downsample.parameters()}
    own = pynas.supernet(spaces.splitattention(layers=(1, 1), channels=(16, 32), shared_shortcut=False), 3)
    first, second = own.blocks[1][0][0][:2]
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_a_network_taken_out_gives_the_same():
    torch.manual_seed(0)
    net = pynas.supernet("splitattention-mini", 3).eval()
    architecture = net.space.sample(np.random.default_rng(0))
    images = torch.randn(2, 3, 32, 32)
    model = export.subnet(net, architecture)
    with torch.no_grad():
        torch.testing.assert_close(model(images), net(images, architecture))
        features = net.classifier(net.features(images, architecture))
        torch.testing.assert_close(features, net(images, architecture))
