"""Supernets as others write them, rated as they are."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.rating import Settings, adapters, rate

from .models import NAIVE_LOSSES, alone


class Choices(nn.Module):
    """forward(x, choices) over a list of lists."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
                for k in (1, 3, 5)
            )
            for _ in range(3)
        )

    def forward(self, x, choices):
        for layer, choice in zip(self.layers, choices):
            x = layer[choice](x)
        return x


class Wide(nn.Module):
    """A linear layer that is told how many hidden features to use, and remembers it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.LayerNorm(6)
        self.kept = None

    def set_sample_config(self, config):
        self.hidden = config["hidden"]
        self.kept = self.first.weight[: self.hidden]

    def forward(self, x):
        y = F.gelu(F.linear(x, self.kept, self.first.bias[: self.hidden]))
        return self.norm(x + F.linear(y, self.second.weight[:, : self.hidden], self.second.bias))


@pytest.fixture
def choices():
    torch.manual_seed(0)
    net = Choices()
    batches = [(torch.randn(n, 4, 6, 6), torch.randn(n, 4, 6, 6)) for n in (4, 4)]
    expected = np.zeros((3, 3, 3))
    with torch.no_grad():
        for path in itertools.product(range(3), repeat=3):
            expected[path] = np.mean([NAIVE_LOSSES["mse"](net(x.clone(), path), target) for x, target in batches])
    return net, batches, expected


def test_a_list_of_choice_layers(choices):
    net, batches, expected = choices
    table = rate(adapters.choice_layers(net.layers), batches, "mse")
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)


def test_a_network_whose_forward_takes_an_encoding(choices):
    net, batches, expected = choices
    layers = [adapters.encoded(net, itertools.product(range(3), repeat=3))]
    np.testing.assert_allclose(rate(layers, batches, "mse").scores, expected.ravel(), rtol=1e-5)
    assert net.training


def test_layers_that_take_a_code(choices):
    class Layer(nn.Module):
        def __init__(self, options):
            super().__init__()
            self.options = options

        def forward(self, x, code):
            return self.options[code](x)

    net, batches, expected = choices
    layers = [adapters.encoded(Layer(layer), range(3)) for layer in net.layers]
    np.testing.assert_allclose(rate(layers, batches, "mse").scores, expected, rtol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_layers_that_are_configured_before_they_run(workers):
    torch.manual_seed(0)
    nets = [Wide() for _ in range(3)]
    batches = [(torch.randn(4, 5, 6), torch.randn(4, 5, 6))]
    layers = [adapters.configured(net, [{"hidden": hidden} for hidden in (2, 5, 8)]) for net in nets]
    table = rate(layers, batches, engine=Settings(workers=workers))
    assert all(net.kept is None for net in nets)
    for path in itertools.product(range(3), repeat=3):
        y = batches[0][0]
        with torch.no_grad():
            for net, choice in zip(nets, path):
                net.set_sample_config({"hidden": (2, 5, 8)[choice]})
                y = net(y)
        assert table[path] == pytest.approx(float(NAIVE_LOSSES["relative_l1"](y, batches[0][1])), rel=1e-5)


class Keeps(nn.Module):
    """Makes a part of itself when it first runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.scale = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), None

    def forward(self, x):
        if self.scale is None:
            self.scale = x.new_ones(()) * 2
        return F.relu(self.bn(self.conv(x))) * self.scale


def test_a_forward_that_keeps_things_survives_tracing(choices):
    layers, (_, batches, _) = [[Keeps(), Keeps()] for _ in range(2)], choices
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], "batch")
    np.testing.assert_allclose(
        rate(layers, batches, "mse", engine=Settings(stack="memory")).scores, expected, rtol=1e-5
    )


def test_the_example_in_the_documentation_runs():
    lines = adapters.__doc__.splitlines()
    source = "\n".join(line[4:] for line in lines if line.startswith("    ") or not line)
    source = source.replace("table =", "block = Block()\ntable =")
    x = torch.randn(2, 4, 5, 5)
    scope = {
        "pynas": pynas,
        "torch": torch,
        "nn": nn,
        "F": F,
        "batches": [(x, x)],
        "itertools": itertools,
        **vars(adapters),
    }
    exec(source, scope)
    assert scope["table"].shape == (2, 2) and [len(layer) for layer in scope["layers"]] == [2, 2]
    assert scope["costs"]["params"][0][0].tolist() == [16, 32]
