"""Processes that use different weights: gradients are averaged weight by weight, and layers are dropped alike."""

import random

import numpy as np
import pytest
import torch
from torch import distributed, nn

import pynas
from pynas.errors import InputError
from pynas.train.method import backward
from tests.processes import join, spawn

RATE, MOMENTUM, DECAY, SCALE, SEED = 0.05, 0.9, 0.1, 4.0, 3
NAMES = ("bright", "dark", "grey")


class Experts(nn.Module):
    """An expert for bright images, one for dark ones, and one that no image of these tests needs."""

    def __init__(self):
        super().__init__()
        for name in NAMES:
            setattr(self, name, nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)))

    def expert(self, x):
        return "bright" if float(x.mean()) > 0 else "dark"

    def forward(self, x):
        return getattr(self, self.expert(x))(x)


class Method(nn.Module):
    """The least that `pynas.fit` asks for, without `pynas.train.Method` as its base."""

    def __init__(self, layer=None, overflow=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = pynas.Supernet([[[[layer or Experts()]]]])
        self.dropped, self.overflow = [], overflow
        if overflow is not None:
            self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)

    def optimizer(self):
        self.made = torch.optim.SGD(self.net.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
        return self.made

    def rate_factor(self, progress, epochs):
        return 1.0

    def training_step(self, images, labels, rng):
        layer = self.net.layers(0, 0)[0][0]
        loss = loss_of(layer, images)
        backward(loss, self.scaler)
        if self.overflow is not None and self.overflow == distributed.get_rank():
            next(p for p in layer.parameters() if p.grad is not None).grad.fill_(float("inf"))
        # Decided as in layers that are dropped at random, by the generators of three libraries.
        self.dropped.append([float(torch.rand(())), random.random(), np.random.rand()])  # noqa: NPY002
        return {layer.expert(images): loss.detach()}


def loss_of(layer, images):
    y = layer(images)
    return (y * torch.linspace(0, 1, y[0].numel()).view(y[0].shape)).square().mean()


def batches():
    """Four batches of four images; the signs say which expert each of the two processes needs."""
    generator = torch.Generator().manual_seed(1)
    signs = [(1, -1), (1, 1), (1, -1), (-1, -1)]
    images = torch.rand(4, 4, 3, 4, 4, generator=generator) + 0.5
    return [(x * torch.tensor(pair).repeat(2).view(4, 1, 1, 1), torch.zeros(4)) for x, pair in zip(images, signs)]


def worker(rank, port, folder):
    join(rank, port, 2)
    method, steps = Method(), []
    pynas.fit(method, batches(), 2, seed=SEED, accumulate=2, on_step=steps.append)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    result = {"state": method.state_dict(), "dropped": method.dropped, "losses": [step.losses for step in steps],
              "moved": [names[id(parameter)] for parameter in method.made.state]}  # fmt: skip
    scaled = Method(overflow=1)
    pynas.fit(scaled, batches()[:1], 1)
    result["overflown"] = {name: p.detach() for name, p in scaled.named_parameters()}
    result["scale"] = scaled.scaler.get_scale()
    try:
        pynas.fit(Method(nn.Conv2d(3, 2 + rank, 1)), batches(), 1)
    except InputError as error:
        result["refused"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    spawn(worker, folder, 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def naive():
    """Both processes' trainings side by side: per weight the mean gradient, 0 where a process has none; SGD by hand."""
    pair, moments, losses = [Method().train(), Method().train()], {}, []
    for step in range(4):
        sums = dict.fromkeys(NAMES, 0.0)
        for number in (2 * step % 4, 2 * step % 4 + 1):
            for rank, method in enumerate(pair):
                layer, images = method.net.layers(0, 0)[0][0], batches()[number][0][rank::2]
                loss = loss_of(layer, images)
                loss.backward()
                sums[layer.expert(images)] += float(loss.detach()) / 4  # two processes, two batches
        losses.append({name: value for name, value in sums.items() if value})
        for (name, first), (_, second) in zip(*(method.named_parameters() for method in pair)):
            gradients = [p.grad for p in (first, second) if p.grad is not None]
            if gradients:
                mean = sum(gradients) / 4 + DECAY * first.detach()
                moments[name] = MOMENTUM * moments.get(name, 0) + mean
                for parameter in (first, second):
                    parameter.data -= RATE * moments[name]
                    parameter.grad = None
        if step % 2:  # the running statistics are averaged after an epoch
            for first, second in zip(*(method.buffers() for method in pair)):
                if first.is_floating_point():
                    first.copy_((first + second) / 2)
                    second.copy_(first)
    return pair[0].state_dict(), moments, losses


def test_gradients_are_averaged_weight_by_weight(results):
    state, moments, losses = naive()
    for result in results:
        assert set(result["moved"]) == set(moments) and not any("grey" in name for name in moments)
        for name, value in result["state"].items():
            torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6, msg=name)
        for have, want in zip(result["losses"], losses):
            assert have == pytest.approx(want, rel=1e-4)
    assert losses[0].keys() == {"bright", "dark"}


def test_a_weight_that_no_process_uses_stays(results):
    """Weight decay would move it."""
    for name, start in Method().state_dict().items():
        for result in results:
            assert torch.equal(result["state"][name], start) == ("grey" in name), name


def test_processes_end_alike(results):
    first, second = (result["state"] for result in results)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["net.blocks.0.0.0.0.bright.1.num_batches_tracked"] > 0


def test_layers_are_dropped_alike_and_anew_in_every_step(results):
    first, second = (result["dropped"] for result in results)
    assert first == second and len(first) == 8
    for by_library in zip(*first):
        assert len(set(by_library)) == 8


def test_an_overflow_in_one_process_skips_the_step_in_all(results):
    for result in results:
        assert result["scale"] == SCALE / 2
        assert all(torch.equal(result["overflown"][name], p) for name, p in Method().named_parameters())


def test_processes_with_different_networks_are_refused(results):
    for result in results:
        assert (
            "[fit] expected one network in all processes, got another one in process 1, from 'net" in result["refused"]
        )


def test_the_generators_of_the_caller_go_on():
    drawn = []
    for trains in (False, True):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
        if trains:
            method = Method()
            torch.manual_seed(0)
            pynas.fit(method, batches(), 1)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_method_without_a_step_is_refused():
    with pytest.raises(InputError, match="expected a method with optimizer, rate_factor, training_step, got Conv2d"):
        pynas.fit(nn.Conv2d(3, 2, 1), batches(), 1)
