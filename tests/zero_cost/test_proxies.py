"""Zero-cost proxies against their formulas on networks small enough to work out otherwise."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.zero_cost import PROXIES, score


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 5, 5, generator=generator), torch.arange(6) % 5


def flat_gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), create_graph=True)])


def flat(model):
    return torch.cat([p.flatten() for p in model.parameters()])


@pytest.mark.parametrize("with_labels", [False, True])
def test_gradient_proxies(model, batch, with_labels):
    images, labels = batch[0], batch[1] if with_labels else None
    model.eval()
    outputs = model(images)
    gradient = flat_gradient(model, F.cross_entropy(outputs, labels) if with_labels else outputs.sum())
    assert score("gradient_norm", model, images, labels) == pytest.approx(gradient.norm().item(), rel=1e-5)
    snip = (gradient * flat(model)).abs().sum().item()
    assert score("snip", model, images, labels) == pytest.approx(snip, rel=1e-5)
    assert score("parameters", model, images) == len(gradient)


def test_grasp_by_differences_of_gradients(model, batch):
    """H g is the change of the gradient along g."""
    model = model.double().eval()
    images, labels = batch[0].double(), batch[1]
    parameters, step = list(model.parameters()), 1e-5
    gradient = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, g in zip(parameters, gradient):
                parameter += sign * step * g
        moved.append(flat_gradient(model, F.cross_entropy(model(images), labels)).detach())
        with torch.no_grad():
            for parameter, g in zip(parameters, gradient):
                parameter -= sign * step * g
    expected = -(flat(model).detach() * (moved[0] - moved[1]) / (2 * step)).sum().item()
    assert score("grasp", model, images, labels) == pytest.approx(expected, rel=1e-4)


def test_synflow_of_linear_layers_is_the_sum_over_all_paths():
    """Each layer's share of the flow of |W2| |W1| 1 is the whole of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False), nn.Linear(7, 4, bias=False))
    first, second = model[1].weight, model[2].weight
    flow = sum(abs(second[k, j].item() * first[j, i].item()) for k in range(4) for j in range(7) for i in range(12))
    before = [parameter.clone() for parameter in model.parameters()]
    assert score("synflow", model, torch.zeros(2, 3, 2, 2)) == pytest.approx(math.log(2 * flow), rel=1e-6)
    assert all((a == b).all() for a, b in zip(before, model.parameters()))


def test_naswot_counts_activations_alike(model, batch):
    images = batch[0]
    model.eval()
    relu = model[:3](images)
    codes = torch.cat([relu.flatten(1) > 0, model[3:5](relu).flatten(1) > 0], 1).tolist()
    kernel = torch.tensor([[sum(a == b for a, b in zip(x, y)) for y in codes] for x in codes], dtype=torch.float64)
    expected = torch.linalg.eigvalsh(kernel).log().sum().item()
    assert score("naswot", model, images) == pytest.approx(expected, rel=1e-6)


def test_zen_of_one_layer_by_hand_and_of_deeper_ones():
    def net(depth):
        layers = []
        for channels in [3] + [8] * (depth - 1):
            layers += [nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    images = torch.zeros(8, 3, 12, 12)
    torch.manual_seed(0)
    weight, _, noise, change = (
        torch.randn(8, 3, 3, 3),
        torch.randn(5, 8),
        torch.randn(8, 3, 12, 12),
        torch.randn(8, 3, 12, 12),
    )
    once, twice = (F.conv2d(x, weight, padding=1) for x in (noise, noise + 0.01 * change))
    mean, variance = once.mean((0, 2, 3), keepdim=True), once.var((0, 2, 3), keepdim=True)
    difference = (F.relu((once - mean) / variance.sqrt()) - F.relu((twice - mean) / variance.sqrt())).abs()
    expected = math.log(difference.flatten(1).sum(1).mean()) + 0.5 * math.log(variance.mean())
    assert score("zen", net(1), images) == pytest.approx(expected, rel=1e-4)
    scores = [score("zen", net(depth), images) for depth in (1, 3, 6)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_leaves_the_network_and_repeats(name, model, batch):
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = score(name, model, *batch)
    assert first == score(name, model, *batch) and math.isfinite(first)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all((before[key] == value).all() for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["gradient_norm", "snip", "grasp", "synflow", "naswot", "own"])
def test_nan_is_named(name, model, batch, monkeypatch):
    monkeypatch.setitem(PROXIES, "own", lambda net, images, labels: net(images).sum().item())
    model[3].weight.data[0] = float("nan")
    with pytest.raises(InputError, match=f"finite score, got nan from {name}"):
        score(name, model, *batch)


def test_useless_networks_are_named(model, batch):
    with pytest.raises(InputError, match="one of parameters, gradient_norm, snip"):
        score("best", model, *batch)
    with pytest.raises(InputError, match="activations as modules"):
        score("naswot", nn.Sequential(nn.Flatten(), nn.Linear(75, 5)), batch[0])
    with pytest.raises(InputError, match="feature maps or tokens"):
        score("zen", nn.Sequential(nn.Flatten(), nn.Linear(75, 5)), batch[0])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="weights are all zero"):
        score("snip", model, *batch)


def test_a_vision_transformer_has_all_scores_too(batch):
    model = pynas.export.standalone(pynas.spaces.get("autoformer-mini"), "0:0123", 5)
    for name in PROXIES:
        assert math.isfinite(score(name, model, torch.randn(4, 3, 32, 32)))
