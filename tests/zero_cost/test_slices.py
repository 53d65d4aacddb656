"""SNIP of every architecture of a BigNAS space, and the selection, against enumeration."""

import copy

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import count, latency
from pynas.errors import InputError
from pynas.spaces import bignas
from pynas.spaces.bignas import Stage
from pynas.supernets.modes import batch_statistics
from pynas.zero_cost import gradients, load_preferred, random_images, read_scores, saliency, save_preferred, select
from pynas.zero_cost.saliency import largest
from tests.enumeration import enumerated


@pytest.fixture(scope="module")
def chosen():
    torch.manual_seed(0)
    stages = (Stage((4, 8), (1, 2), (3, 5), 1, 1), Stage((8, 12), (1, 2), (1, 3, 5), 2, 2))
    net = pynas.supernet(bignas("own", (20, 24), (4, 8), stages, (12, 16)), 3)
    images = random_images(4, 24)
    return net, images, saliency(net, images), count(net, (3, 24, 24)), enumerated(net.space)


def test_scores_are_those_of_the_weights_in_use(chosen):
    """What a subnet uses has a gradient in its own backward pass; the rest of the largest net has none."""
    net, images, scores, _, everything = chosen
    net, images = copy.deepcopy(net).double(), images.double()
    parameters, rng = list(net.parameters()), np.random.default_rng(0)
    with batch_statistics(net):
        whole = torch.autograd.grad(net(images, largest(net)).sum(), parameters)
        for index in rng.choice(len(everything), 25, replace=False).tolist():
            outputs = net(images, everything[index])
            weighted = (outputs * torch.randn_like(outputs)).sum()
            used = torch.autograd.grad(weighted, parameters, allow_unused=True)
            expected = sum((g * p)[own != 0].abs().sum().item() for g, p, own in zip(whole, parameters, used)
                           if own is not None)  # fmt: skip
            assert scores.of(everything[index])["snip"] == pytest.approx(expected, rel=1e-3)
    assert scores.of(largest(net))["snip"] == pytest.approx(
        sum((g * p).abs().sum().item() for g, p in zip(whole, parameters)), rel=1e-3
    )


@pytest.mark.parametrize(("cost", "interval"), [("params", 300), ("madds", 60_000), ("memory", 40_000)])
@pytest.mark.parametrize("top", [1, 3])
def test_selection_from_whole_spaces(chosen, cost, interval, top):
    net, _, scores, costs, everything = chosen
    found = select(net.space, scores, costs, cost=cost, interval=interval, top=top)
    groups = {}
    for architecture in everything:
        number = costs.of(architecture)[cost] // interval
        groups.setdefault(number, []).append(scores.of(architecture)["snip"])
    expected = {(n * interval, snip) for n, snips in groups.items() for snip in sorted(snips)[-top:]}
    assert len(found) == sum(min(top, len(snips)) for snips in groups.values())
    assert {one.interval[0] for one in found.members} == {low for low, _ in expected}
    for low in {low for low, _ in expected}:
        snips = sorted(one.snip for one in found.members if one.interval[0] == low)
        assert snips == pytest.approx(sorted(groups[low // interval])[-top:], rel=1e-9)
    for one in found.members:
        assert one.interval[0] <= one.costs[cost] < one.interval[1] and one.costs == costs.of(one.architecture)
        assert one.snip == pytest.approx(scores.of(one.architecture)["snip"]) and one.normalised is None


def test_latency_is_a_cost_too(chosen):
    net, _, scores, costs, everything = chosen
    costs = costs | latency(net, (3, 24, 24), "cpu", repeats=1, warm_up=0)
    spent = np.array([costs.of(architecture)["latency"] for architecture in everything])
    found = select(net.space, scores, costs, cost="latency", interval=float(spent.max()) * 2)
    assert found.members[0].snip == pytest.approx(max(scores.of(a)["snip"] for a in everything))


def test_preferred_spaces_are_kept(chosen, tmp_path):
    net, _, scores, costs, _ = chosen
    found = select(net.space, scores, costs, interval=1000)
    content = save_preferred(tmp_path / "preferred.json", found)
    assert load_preferred(tmp_path / "preferred.json", net.space) == found
    assert [net.space.parse(entry["architecture"]) for entry in content["architectures"]] == [
        one.architecture for one in found.members
    ]


def test_bad_input_is_named(chosen):
    net, images, scores, costs, _ = chosen
    for changes, message in [
        ({"normaliser": "layer"}, "expected no normaliser for own"),
        ({"allocation": "greedy"}, "expected no allocation for own"),
        ({"cost": "watts"}, "expected one of params, madds, memory, got 'watts'"),
        ({"interval": 1}, "architecture in every interval of params, got none"),
        ({"start": 1e6, "stop": 2e6, "interval": 5e5}, "architecture in every interval of params, got none"),
    ]:
        with pytest.raises(InputError, match=message):
            select(net.space, scores, costs, **{"interval": 1000, **changes})
    with pytest.raises(InputError, match="finite gradients"):
        saliency(net, images * float("nan"))
    with pytest.raises(InputError, match="AutoFormer or BigNAS, got mbconv-mini"):
        saliency(pynas.supernet("mbconv-mini", 2), images)
    found, dead = gradients(net, images), net.weights[1][0]
    kept = [parameter.detach().clone() for parameter in dead.parameters()]
    try:
        for parameter in dead.parameters():
            parameter.data.zero_()
        with pytest.raises(InputError, match="got 0 in layer 0 of block 2"):
            read_scores(net, found)
    finally:
        for parameter, value in zip(dead.parameters(), kept):
            parameter.data.copy_(value)
