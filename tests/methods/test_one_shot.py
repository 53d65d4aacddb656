"""The supervised baselines, and the linear evaluation, against naive steps."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

import pynas
from pynas import methods, spaces
from pynas.errors import InputError
from pynas.methods.sampling import fair_architectures

SPACE = spaces.nasbench201(n=1, channels=(4, 6), ops=("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), image_size=8)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(12, 3, 8, 8), torch.randint(0, 3, (12,))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return pynas.supernet(SPACE, 3).train()


@pytest.mark.parametrize("name, number", [("spos", 1), ("fairnas", 3)])
def test_a_step_sums_the_gradients_of_its_paths(net, batch, name, number):
    images, labels = batch
    method, reference = getattr(methods, name)(copy.deepcopy(net)), net
    loss = method.training_step(images, labels, np.random.default_rng(4))["classification"]
    paths = method.architectures(np.random.default_rng(4))
    assert len(paths) == number
    losses = []
    for path in paths:
        logits = reference(images, path)
        chosen = functional.log_softmax(logits, 1)[range(12), labels]
        (-chosen.mean()).backward()
        losses.append(-chosen.mean().item())
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(method.net.parameters(), reference.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_fair_sampling_uses_every_candidate_equally_often():
    rng = np.random.default_rng(0)
    for space in (SPACE, spaces.get("splitattention"), spaces.get("mbconv-mini")):
        for _ in range(20):
            paths = fair_architectures(space, rng)
            cells = [cells[choice.cell] for choice, cells in zip(paths[0], space.blocks)]
            for b, cell in enumerate(cells):
                for layer, count in enumerate(cell.counts):
                    assert sorted(path[b].path[layer] for path in paths) == list(range(count))


def test_uneven_layers_come_as_evenly_as_they_can():
    space = spaces.Space.from_counts("uneven", [[(2, 3)]])
    used = np.zeros(2, int)
    for seed in range(200):
        paths = fair_architectures(space, np.random.default_rng(seed))
        assert sorted(path[0].path[1] for path in paths) == [0, 1, 2]
        used += np.bincount([path[0].path[0] for path in paths], minlength=2)
    assert abs(used[0] - used[1]) < 80


def test_linear_evaluation_trains_the_classifier_alone(net, batch):
    images, labels = batch
    method = methods.LinearEvaluation(net, learning_rate=0.5)
    method.prepare(())
    before = copy.deepcopy(net.state_dict())
    method.train()
    loss = method.training_step(images, labels, np.random.default_rng(3))["classification"]
    path = SPACE.sample(np.random.default_rng(3))
    reference = copy.deepcopy(net).train()  # batch statistics
    logits = functional.linear(reference.features(images, path), before["classifier.weight"], before["classifier.bias"])
    assert float(loss) == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    method.optimizer().step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("classifier")), name


def test_linear_evaluations_rate_falls_at_its_milestones(net):
    method = methods.LinearEvaluation(net)
    assert method.optimizer().param_groups[0]["lr"] == 30
    rates = [round(method.rate_factor(epoch, 100), 6) for epoch in (0, 59.9, 60, 79.9, 80, 99)]
    assert rates == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_bad_sampling(net):
    with pytest.raises(InputError, match=r"\[one-shot\] expected sampling to be 'uniform' or 'fair', got 'all'"):
        methods.OneShot(net, sampling="all")
