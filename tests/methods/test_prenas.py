"""PreNAS's training against sums over extracted networks, and its samplers against their frequencies."""

import math
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
from pynas.runs import METHODS
from pynas.spaces import Architecture, autoformer


@pytest.fixture
def net():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (1, 2, 3), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    return pynas.supernet(space, 4)


MEMBERS = [Architecture.parse(text) for text in ("0:0", "1:03", "1:11", "1:21", "4:32", "5:333")]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8), torch.arange(6) % 4


def drawn(name, space, times):
    rng = np.random.default_rng(0)
    sampler = (subnets.PREFERRED | subnets.WHOLE)[name](space, MEMBERS)
    return [sampler(rng) for _ in range(times)]


def test_balanced_groups_are_equally_often(net):
    counts = Counter(str(architecture) for (architecture,) in drawn("balanced", net.space, 4000))
    expected = {"0": 1 / 4, "1:03": 1 / 12, "1:11": 1 / 12, "1:21": 1 / 12, "4:32": 1 / 4, "5:333": 1 / 4}
    assert set(counts) == set(expected)
    for name, share in expected.items():
        assert counts[name] / 4000 == pytest.approx(share, abs=0.03)


def test_uniform_members_are_equally_often(net):
    counts = Counter(str(architecture) for (architecture,) in drawn("uniform", net.space, 3000))
    assert len(counts) == 6 and all(count / 3000 == pytest.approx(1 / 6, abs=0.03) for count in counts.values())


def test_resampling_takes_what_members_of_the_dimension_chose(net):
    counts = Counter(str(architecture) for (architecture,) in drawn("resampled", net.space, 2000))
    # Dimension 8: layer 0 saw 0, 1, 2, layer 1 saw 3, 1; dimension 12: all 3, or 2 in layer 1.
    narrow = {"0", "1", "2"} | {f"1:{a}{b}" for a in "012" for b in "13"}
    wide = {f"4:3{b}" for b in "23"} | {f"5:3{b}3" for b in "23"}
    assert set(counts) == narrow | wide
    assert sum(counts[name] for name in narrow) / 2000 == pytest.approx(1 / 2, abs=0.03)
    assert counts["1:03"] / 2000 == pytest.approx(1 / 24, abs=0.015)


def test_whole_space_baselines(net):
    cells = Counter(architecture[0].cell for (architecture,) in drawn("autoformer", net.space, 3000))
    assert all(cells[c] / 3000 == pytest.approx(1 / 6, abs=0.03) for c in range(6))
    sizes = Counter(len(architecture[0].path) for (architecture,) in drawn("spos", net.space, 3000))
    assert sizes[3] / 3000 == pytest.approx(64 / 84, abs=0.03)
    for step in drawn("fairnas", net.space, 20):
        assert len(step) == 4 and len({architecture[0].cell for architecture in step}) == 4
        for layer in range(3):
            taken = [a[0].path[layer] for a in step if len(a[0].path) > layer]
            assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("sampling", ["balanced", "uniform", "resampled", "autoformer", "spos", "fairnas"])
def test_a_step_is_the_mean_loss_of_its_architectures(net, batch, sampling):
    method = PreNAS(net, MEMBERS, sampling=sampling, drop_path=0.0, label_smoothing=0.2)
    chosen = method.architectures(np.random.default_rng(3))
    images, labels = batch
    losses = [F.cross_entropy(net(images, a), labels, label_smoothing=0.2) for a in chosen]
    expected = torch.autograd.grad(sum(losses) / len(losses), list(net.parameters()), materialize_grads=True)
    found = method.training_step(images, labels, np.random.default_rng(3))
    assert found["classification"].item() == pytest.approx(float(sum(losses).detach()) / len(losses), rel=1e-5)
    for parameter, gradient in zip(net.parameters(), expected):
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("distill", [False, True])
def test_sandwich_and_distillation_in_place(net, batch, distill):
    method = PreNAS(net, MEMBERS, sampling="uniform", sandwich=2, distill=distill, drop_path=0.0)
    images, labels = batch
    largest, *middle, smallest = method.architectures(np.random.default_rng(3))
    assert (largest, smallest, len(middle)) == (MEMBERS[-1], MEMBERS[0], 2)
    teacher = net(images, largest)
    losses = [F.cross_entropy(teacher, labels, label_smoothing=0.1)]
    for architecture in (*middle, smallest):
        logits = net(images, architecture)
        soft = -(teacher.detach().softmax(1) * logits.log_softmax(1)).sum(1).mean()
        losses.append(soft if distill else F.cross_entropy(logits, labels, label_smoothing=0.1))
    expected = torch.autograd.grad(sum(losses) / 4, list(net.parameters()), materialize_grads=True)
    method.training_step(images, labels, np.random.default_rng(3))
    for parameter, gradient in zip(net.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    assert PreNAS(net, sampling="spos", sandwich=1).ends == tuple(map(Architecture.parse, ("0:0", "5:333")))


def test_mixed_images_have_mixed_targets_and_repeat(net, batch):
    method = PreNAS(net, MEMBERS, mixup=0.8, cutmix=1.0)
    images, targets = method._mixed(*batch, np.random.default_rng(0))
    assert targets.shape == (6, 4) and torch.allclose(targets.sum(1), torch.ones(6))
    assert not torch.equal(images, batch[0])
    again, _ = method._mixed(*batch, np.random.default_rng(0))
    assert torch.equal(images, again)
    assert math.isfinite(method.training_step(*batch, np.random.default_rng(0))["classification"])


def test_learning_rates_and_decay(net):
    method = PreNAS(net, MEMBERS, learning_rate=1e-3, min_rate=1e-5, warmup_epochs=4)
    assert method.rate_factor(0, 40) == pytest.approx(1e-3) and method.rate_factor(2, 40) == pytest.approx(
        0.5, rel=1e-2
    )
    assert method.rate_factor(4, 40) == 1 and method.rate_factor(40, 40) == pytest.approx(0.01)
    assert method.rate_factor(22, 40) == pytest.approx((1 + 0.01) / 2)
    assert method.rate_factor(2, 10) == 1
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    decayed = {
        names[id(p)] for group in method.optimizer().param_groups for p in group["params"] if group["weight_decay"]
    }
    assert decayed == {
        name for name, p in net.named_parameters() if p.ndim > 1 and "position" not in name and "token" not in name
    }
    assert [getattr(layer.drop_path, "drop_prob", 0) for layer in net.transformer] == pytest.approx([0, 0.05, 0.1])


def test_training_improves_the_preferred_architectures(net, tmp_path):
    torch.manual_seed(0)
    images, labels = 0.3 * torch.randn(64, 3, 8, 8), torch.arange(64) % 4
    for label in range(4):
        images[labels == label, :, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    method = PreNAS(net, MEMBERS, learning_rate=5e-3, drop_path=0.0)
    before = 1 - ErrorRate(net, batches, norm="running").many(MEMBERS)
    pynas.fit(method, batches, epochs=16, run=tmp_path)
    after = 1 - ErrorRate(net, batches, norm="running").many(MEMBERS)
    assert before.mean() < 0.5 and after.mean() > 0.8
    for architecture, accuracy in zip(MEMBERS, after):
        model = pynas.export.subnet(net, architecture).eval()
        assert (model(images).argmax(1) == labels).double().mean().item() == pytest.approx(accuracy)


@pytest.mark.parametrize("name", ["paper-tiny", "paper-small", "paper-base"])
def test_a_recipe_in_python(name):
    options = METHODS["prenas"].options()
    values = options.filled(name, {})
    images = {key: values[key] for key in ("augmentation", "erasing", "erasing_count", "repeats")}
    space = autoformer("own", (8, 12), (1, 2, 3), (1, 2), (1.5, 2), qkv_dim=8, patch=4, image_size=8, max_distance=2)
    method = PreNAS(pynas.supernet(space, 10), MEMBERS, **{key: values[key] for key in options.method})
    loader = pynas.data.load("digits", 8, limit=80).loader("train", 16, **images)
    before = [parameter.clone() for parameter in method.net.parameters()]
    pynas.fit(method, loader, epochs=1)
    assert all(parameter.isfinite().all() for parameter in method.net.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, method.net.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampling": "best"},
            "sampling to be 'balanced', 'uniform', 'resampled', 'autoformer', 'spos' or 'fairnas', got 'best'",
        ),
        ({}, "preferred architectures for sampling=balanced, got none"),
        ({"sampling": "spos", "distill": True}, "sandwich of at least 1"),
    ],
)
def test_bad_options_are_named(net, options, message):
    with pytest.raises(InputError, match=message):
        PreNAS(net, **options)
