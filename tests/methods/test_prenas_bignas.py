"""PreNAS on a convolutional supernet: groups, a step against extracted networks, accuracy with batch norm of their own."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.evaluation import ErrorRate
from pynas.methods import PreNAS
from pynas.methods.whole import subnets
from pynas.spaces import bignas
from pynas.spaces.bignas import Stage

MEMBERS = ["12|4|4:3|8:3|8", "16|4|4:3|8:5|8", "16|8|8:3|8:3|16", "16|8|8:33|12:35|16", "16|8|8:33|12:55|16"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    stages = (Stage((4, 8), (1, 2), (3,), 1, 1), Stage((8, 12), (1, 2), (3, 5), 2, 2))
    return pynas.supernet(bignas("own", (12, 16), (4, 8), stages, (8, 16)), 3)


@pytest.fixture
def members(net):
    return [net.space.parse(text) for text in MEMBERS]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3, 16, 16), torch.arange(6) % 3


def test_groups_are_resolution_and_layers(net, members):
    sampler, rng = subnets.balanced(net.space, members), np.random.default_rng(0)
    counts = Counter(net.space.format(architecture) for _ in range(3000) for architecture in sampler(rng))
    # Three groups: resolution 12; 16 with the two shallow ones; 16 with the two deep ones.
    expected = dict(zip(MEMBERS, (1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6)))
    assert set(counts) == set(expected)
    assert all(counts[name] / 3000 == pytest.approx(share, abs=0.03) for name, share in expected.items())


def test_a_step_of_the_sandwich_with_distillation(net, members, batch):
    """The largest learns from labels, the drawn and the smallest one from it; gradients of their mean add up on slices."""
    images, labels = batch
    method = PreNAS(net, members, sandwich=1, distill=True, drop_path=0.0, label_smoothing=0.0)
    net.train()
    order = method.architectures(np.random.default_rng(3))
    assert order[0] == members[-1] and order[2] == members[0] and order[1] in members
    models = [net.extract(architecture) for architecture in order]
    loss = method.training_step(images, labels, np.random.default_rng(3))["classification"]
    logits = [model(images) for model in models]
    target = logits[0].detach().softmax(1)
    losses = [F.cross_entropy(logits[0], labels), *(F.cross_entropy(one, target) for one in logits[1:])]
    assert loss.item() == pytest.approx(sum(losses).item() / 3, rel=1e-4)
    (sum(losses) / 3).backward()
    stem = net.weights[0][0].conv.weight.grad
    expected = torch.zeros_like(stem)
    for model in models:
        own = model.stem.conv.weight.grad
        expected[: len(own)] += own
    torch.testing.assert_close(stem, expected, rtol=1e-3, atol=1e-5)


def test_drop_path_is_of_training_alone(net, members, batch):
    images, _ = batch
    deep = members[-1]
    net.eval()
    before = net(images, deep)
    net.set_drop_path(0.9)
    assert torch.equal(net(images, deep), before)
    net.train()
    assert not torch.allclose(net(images, deep), net(images, deep))


def test_accuracy_is_with_batch_norm_of_each(net, members, batch):
    images, labels = batch
    batches, calibration = [(images, labels)], [(torch.randn(8, 3, 16, 16), None), (torch.randn(8, 3, 16, 16), None)]
    found = 1 - ErrorRate(net, batches, calibration, "recalibrate").many(members)
    for architecture, accuracy in zip(members, found):
        model = net.extract(architecture)
        pynas.export.recalibrate(model, calibration)
        right = (model.eval()(images).argmax(1) == labels).double().mean().item()
        assert right == pytest.approx(accuracy)
    with pytest.raises(InputError, match="others to re-estimate batch norm on"):
        ErrorRate(net, batches, None, "recalibrate").many(members)


def test_the_whole_space_and_bad_samplings(net):
    method = PreNAS(net, sampling="spos", sandwich=2)
    largest, *drawn, smallest = method.architectures(np.random.default_rng(0))
    assert net.space.format(largest) == "16|8|8:33|12:55|16" and net.space.format(smallest) == "12|4|4:3|8:3|8"
    assert all(architecture in net.space for architecture in drawn) and len(drawn) == 2
    for sampling in ("autoformer", "fairnas"):
        with pytest.raises(InputError, match=f"sampling of balanced, spos, uniform for own, got '{sampling}'"):
            PreNAS(net, sampling=sampling)
