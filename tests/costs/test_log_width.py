"""The cost of widths: the published baseline of nats-size, and layers looked at one by one."""

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import costs, tabular
from pynas.costs import LayerCosts


@pytest.mark.parametrize("name", ["nats-size", "nasbench201"])
def test_baselines_of_tables_are_this_cost(name):
    net = pynas.supernet(name, 10)
    bench = tabular.load(name)
    found = costs.log_width(net, (3, 32, 32))
    expected = tabular.baselines(bench)["log_width"]
    for row in range(0, len(bench), 397):
        architecture = net.space.parse(bench.architectures[row])
        assert found.of(architecture)["log_width"] == pytest.approx(expected[row], rel=1e-14)


@pytest.mark.parametrize("name", ["mbconv-mini", "hytra-mini"])
def test_layers_of_a_path_by_hooks(name):
    net = pynas.supernet(name, 10).eval()
    side = net.space.image_size
    found, rng = costs.log_width(net, (3, side, side)), np.random.default_rng(0)
    for _ in range(3):
        architecture = net.space.sample(rng)
        widths: dict[int, list[int]] = {}
        layers = [layer for b, choice in enumerate(architecture) for layer in net.path(b, choice)]
        handles = []

        def note(number, into=widths):
            return lambda m, i, o: into.setdefault(number, []).append(o.shape[1 if o.dim() == 4 else -1])

        for number, layer in enumerate(layers):
            convolutions = [part for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
            handles += [part.register_forward_hook(note(number)) for part in convolutions]
        with torch.no_grad():
            net(torch.zeros(1, 3, side, side), architecture)
        for handle in handles:
            handle.remove()
        total = sum(fmean(map(math.log, each)) for each in widths.values())
        assert found.of(architecture)["log_width"] == pytest.approx(total, rel=1e-12)


def test_spaces_of_slices_have_it_by_layer():
    net = pynas.supernet("autoformer-mini", 10)
    side = net.space.image_size
    found = costs.log_width(net, (3, side, side))
    assert isinstance(found, LayerCosts)
    low, high = costs.cost_range(net.space, found, "log_width")
    widest = max((found.of(net.space.sample(np.random.default_rng(seed)))["log_width"], seed) for seed in range(20))[0]
    assert 0 < low < widest <= high


def test_a_candidate_without_weights_has_no_width_and_costs_join():
    net = pynas.supernet("nasbench201-mini", 10)
    counted = costs.count(net, (3, 32, 32)) | costs.log_width(net, (3, 32, 32))
    names = [label for label in ("none", "skip_connect", "nor_conv_3x3") if label in str(net.space.blocks)]
    assert {"params", "log_width"} <= set(counted.names) and names
    table = counted["log_width"][0][0]
    params = counted["params"][0][0]
    # Wider exactly where there are more convolutions.
    assert ((table == table.min()) == (params == params.min())).all()
