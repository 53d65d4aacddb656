"""The AutoFormer supernet: published parameter counts and MAdds, extraction, standalone networks."""

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import count
from pynas.spaces import autoformer, get
from tests.enumeration import autoformer_architecture

# Published with PreNAS: millions of parameters, billions of MAdds, dimension, and each layer's MLP ratio and heads.
PUBLISHED = [
    (5.99476, 1.3878, 192, "4 4 4 4 4 3.5 3.5 4 4 3.5 4 4", "444433333434"),
    (6.997192, 1.5960, 216, "4 3.5 4 3.5 3.5 3.5 3.5 3.5 3.5 3.5 3.5 3.5", "444443334434"),
    (7.996552, 1.7530, 240, "4 3.5 4 4 3.5 3.5 3.5 4 4 3.5 4 3.5", "333333333333"),
    (8.967016, 2.0065, 240, "4 4 4 4 4 3.5 4 4 4 3.5 4 4", "444444444444"),
    (9.978232, 2.2213, 240, "4 4 4 4 4 3.5 3.5 4 4 3.5 4 3.5 4 4", "44444333443434"),
    (10.517272, 2.3537, 240, "4 " * 14, "4" * 14),
]


def autoformer_complexity(dim, ratios, heads, tokens=197, classes=1000, distance=14):
    """MAdds as AutoFormer's released code reckons them, from which the published figures come.

    It counts two tokens too many in the layers and one in the head, which it applies to every token; norms and biases; and for
    relative positions the size of the tables instead of their products.
    """
    longer, total = tokens + 2, dim + tokens * 768 * dim + tokens * dim / 2 + (tokens + 1) * dim * classes
    for ratio, h in zip(ratios, heads):
        inner = 64 * h
        total += 2 * longer * dim + 4 * longer * dim * inner + 2 * longer * dim * int(dim * ratio)
        total += 2 * longer**2 * inner + (2 * distance + 0.5) * longer**2 + longer * inner / 2
    return total


def plain_madds(dim, ratios, heads, side=14, classes=1000):
    """Products of matrices: patches, projections, attention, relative positions by rows and columns, head."""
    tokens, total = side * side + 1, side * side * 768 * dim + dim * classes
    for ratio, h in zip(ratios, heads):
        inner = 64 * h
        total += 4 * tokens * dim * inner + 2 * tokens * dim * int(dim * ratio) + 2 * tokens**2 * inner
        total += 4 * side * side * side * inner + tokens * inner
    return total


@pytest.fixture(scope="module")
def tiny_costs():
    return count(pynas.supernet("autoformer-tiny"), (3, 224, 224))


@pytest.mark.parametrize(("params", "madds", "dim", "ratios", "heads"), PUBLISHED)
def test_published_parameters_and_madds(tiny_costs, params, madds, dim, ratios, heads):
    ratios, heads = [float(ratio) for ratio in ratios.split()], [int(h) for h in heads]
    architecture = autoformer_architecture(get("autoformer-tiny"), dim, heads, ratios)
    costs = tiny_costs.of(architecture)
    assert costs["params"] == round(params * 1e6)
    assert costs["madds"] == plain_madds(dim, ratios, heads)
    assert round(autoformer_complexity(dim, ratios, heads) / 1e9, 4) == pytest.approx(madds, abs=5.1e-5)


def test_the_supernet_is_as_large_as_its_largest_architecture():
    net = pynas.supernet("autoformer-tiny")
    assert sum(parameter.numel() for parameter in net.parameters()) == 10_517_272
    assert len(net.state_dict()) == len(list(net.parameters()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (1, 2, 3), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    return pynas.supernets.AutoFormer(space, num_classes=5, drop_path=0.5).eval()


def test_extracted_networks_give_the_same_and_own_their_weights(net):
    rng, images = np.random.default_rng(0), torch.randn(2, 3, 8, 8)
    for _ in range(6):
        architecture = net.space.sample(rng)
        model = pynas.export.subnet(net, architecture)
        torch.testing.assert_close(model(images), net(images, architecture))
        assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in net.parameters()}
    fresh = pynas.export.standalone(net.space, architecture, 5)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in model.parameters()]


def test_extracted_networks_are_traced_for_every_batch_size(net):
    model, images = net.extract("3:2"), torch.randn(3, 3, 8, 8)
    batch = torch.export.Dim("batch", max=2**31)
    traced = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(traced(images), model(images))


def test_branches_are_dropped_in_training_only(net):
    images, architecture = torch.randn(2, 3, 8, 8), net.space.parse("5:333")
    net.train()
    assert len({net(images, architecture).sum().item() for _ in range(8)}) > 1
    model = net.extract(architecture)
    assert [getattr(layer.drop_path, "drop_prob", 0) for layer in model.block_1] == [0, 0.25, 0.5]


def test_the_layers_of_a_cell_are_what_forward_runs(net):
    images, architecture = torch.randn(2, 3, 8, 8), net.space.parse("4:21")
    x = net.enter(images, architecture[0])
    for layer, candidate in zip(net.layers(0, 4), (2, 1)):
        x = layer[candidate](x)
    torch.testing.assert_close(net.head(x), net(images, architecture))
