"""Every kind of supernet has the members of `Net`, and they agree with each other."""

import numpy as np
import pytest
import torch

import pynas
from pynas.errors import InputError
from pynas.spaces import Choice, autoformer
from pynas.supernets import KINDS, kind_of
from pynas.supernets.shapes import output_shape

SPACES = {"mbconv": "mbconv-mini", "hytra": "hytra-mini", "nats-size": "nats-size", "nasbench201": "nasbench201-mini",
          "splitattention": "splitattention-mini", "vit": "vit-mini", "autoformer": "autoformer-mini",
          "bignas": "bignas-mini"}  # fmt: skip
# Kinds whose heads have no `features`.
PLAIN_HEADS = {"hytra", "nats-size", "vit"}


def test_every_kind_is_tested():
    assert set(SPACES) == set(KINDS)
    assert {kind for kind in KINDS if KINDS[kind].shares_slices} == {"autoformer", "bignas"}
    assert {kind for kind in KINDS if not KINDS[kind].dense_costs} == {"autoformer"}


@pytest.mark.parametrize("kind", SPACES)
def test_members_agree(kind):
    torch.manual_seed(0)
    net = pynas.supernet(SPACES[kind], 3).eval()
    assert net.space.kind == kind and kind_of(net.space) is KINDS[kind]
    side = net.space.image_size
    architecture, images = net.space.sample(np.random.default_rng(0)), torch.randn(2, 3, side, side)
    with torch.no_grad():
        logits = net(images, architecture)
        x = net.enter(images, architecture[0])
        for block, choice in enumerate(architecture):
            for module in net.path(block, choice):
                x = module(x)
        if kind == "nasbench201":
            x = net.classifier(net.head(x))
        torch.testing.assert_close(net.head(x) if kind not in ("nasbench201", "bignas") else x, logits)
        plain = net.extract(net.space.format(architecture), (3, side, side))
        torch.testing.assert_close(plain(images), logits, rtol=1e-4, atol=1e-4)
        assert not plain.training and net.train().extract(architecture).training
        if kind in PLAIN_HEADS:
            with pytest.raises(InputError, match="expected a supernet whose head has features and a classifier"):
                net.features(images, architecture)
        else:
            features = net.eval().features(images, architecture)
            weight, bias = net.classifier.weight[:, : features.shape[1]], net.classifier.bias
            torch.testing.assert_close(features @ weight.T + bias, logits)
    used = {id(parameter) for module in net.modules_of(architecture) for parameter in module.parameters()}
    assert used <= {id(parameter) for parameter in net.parameters()}
    with pytest.raises(InputError):
        net.extract("zz|zz|zz|zz|zz|zz|zz|zz")


@pytest.mark.parametrize("kind", [kind for kind in SPACES if kind != "nasbench201"])
def test_layers_are_the_candidates_of_paths(kind):
    net = pynas.supernet(SPACES[kind], 3)
    for c, cell in enumerate(net.space.blocks[-1][:2]):
        block, path = len(net.space) - 1, next(cell.paths())
        chosen = net.path(block, Choice(c, path))
        layers = net.layers(block, c)
        assert [len(layer) for layer in layers] == list(cell.counts) and len(chosen) == len(path)
        for layer, candidate, module in zip(layers, path, chosen):
            same = [[id(p) for p in one.parameters()] for one in (layer[candidate], module)]
            assert type(layer[candidate]) is type(module) and same[0] == same[1]


@pytest.mark.parametrize("kind", SPACES)
def test_visits_meet_every_candidate(kind):
    space = SPACES[kind]
    if kind == "autoformer":
        space = autoformer("own", (8, 12), (1, 2), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    net = pynas.supernet(space, 3)
    places = set()

    def visitor(module, shape, place):
        places.add(place)
        module = module.extract(shape) if hasattr(module, "extract") else module
        return 1, output_shape(module, shape)

    side = net.space.image_size
    walk = net.visit((3, side, side), visitor)
    tables = walk.tables(float)
    assert [[table.shape for table in cells] for cells in tables] == [[c.counts for c in b] for b in net.space.blocks]
    assert (
        walk.fixed(float)
        + sum(tables[b][c.cell][c.path] for b, c in enumerate(net.space.sample(np.random.default_rng(1))))
        > 0
    )
    assert all(isinstance(place[0], str) or len(place) == 4 for place in places)


def test_a_graph_has_no_layers():
    with pytest.raises(InputError, match="expected a supernet whose layers run one after the other, got nasbench201"):
        pynas.supernet("nasbench201-mini", 3).layers(0, 0)


def test_a_space_without_a_builder_is_named():
    space = pynas.spaces.Space.from_counts("mine", [[[2]]])
    with pytest.raises(InputError, match="got mine of the kind 'own'; add a line to pynas.supernets.KINDS"):
        pynas.supernet(space)
