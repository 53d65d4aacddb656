"""Costs beside parameters and multiply-adds: kept keys and values, and time."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pynas.compress import plan
from pynas.compress.cuts import Cut
from pynas.costs.latency import Timing
from pynas.runtimes import Workload
from pynas.spaces import Architecture

from .families import FAMILIES, built


def test_bytes_of_keys_and_values():
    """Each layer keeps keys and values of 2 groups of 8 features, in float32."""
    model, call = built(FAMILIES["Llama"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0,), heads=(1.0, 0.5))
    costs = planned.costs(net, kv=(100, 3))
    ((first, second),) = [[cuts for _, cuts in block] for block in net.blocks]
    assert first == second == [Cut(), Cut(heads=0.5), Cut(left_out=True)]
    kept = {Cut(): 2, Cut(heads=0.5): 1, Cut(left_out=True): 0}
    for path in itertools.product(range(3), range(3)):
        groups = kept[first[path[0]]] + kept[second[path[1]]]
        assert costs.of(Architecture.of([(0, path)]))["kv_bytes"] == 2 * groups * 8 * 100 * 3 * 4
    assert costs.metadata["reference"]["kv_bytes"] == 2 * 4 * 8 * 100 * 3 * 4
    half = planned.costs(plan(model.bfloat16(), call).supernet(widths=(1.0,)), kv=(100, 3))
    assert half.metadata["reference"]["kv_bytes"] == 2 * 4 * 8 * 100 * 3 * 2


def test_parameters_beside_embeddings_and_multiply_adds_per_token():
    """The head of a Llama is tied to its embeddings here, and counts with them."""
    model, call = built(FAMILIES["Llama"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0, 0.5))
    costs, ids = planned.costs(net), call.kwargs["input_ids"]
    embedded = sum(p.numel() for p in {*model.get_input_embeddings().parameters()})
    assert embedded
    for architecture in (net.original, net.space.sample(np.random.default_rng(0))):
        small = net.extract(architecture)
        of = costs.of(architecture)
        assert of["params"] == sum(p.numel() for p in small.parameters())
        assert of["non_embedding_params"] == of["params"] - embedded
        assert of["madds_per_token"] == pytest.approx(of["madds"] / ids.shape[1])
    assert costs.metadata["reference"]["non_embedding_params"] == costs.of(net.original)["non_embedding_params"]
    image_model, image_call = built(FAMILIES["timm resnet18"])
    image_plan = plan(image_model, image_call)
    assert {*image_plan.costs(image_plan.supernet(widths=(1.0,))).names} == {"params", "madds"}


def timed(ms):
    """Stand in for the clock: ms of each call."""
    return lambda calls, *_, **__: [Timing(ms(call), 0.0) for call in calls]


def test_latency_of_each_unit_alone(monkeypatch):
    """Times add up to that of the model where every unit is as it is."""
    shapes = set()
    monkeypatch.setattr(
        sys.modules["pynas.costs.latency"], "time_calls", timed(lambda call: shapes.add(len(call())) or 2.0)
    )
    model, call = built(FAMILIES["timm resnet18"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0, 0.5))
    costs = planned.costs(net, latency=Workload(batch_size=3))
    assert shapes == {3} and (costs.metadata["runtime"], costs.metadata["batch_size"]) == ("torch", 3)
    assert costs.of(net.original)["latency"] == pytest.approx(2.0)
    assert costs.metadata["reference"]["latency"] == pytest.approx(2.0)
    removed = [[len(cuts) - 1 if cuts[-1].left_out else 0 for _, cuts in block] for block in net.blocks]
    smallest = costs.of(Architecture.of((0, path) for path in removed))["latency"]
    share = sum(parts.unit.residual for parts in planned.parts) / len(planned.parts)
    assert smallest == pytest.approx(2.0 - 2.0 * share)  # times of the units are scaled to the model's
    assert "latency" not in planned.costs(net).names


def test_units_that_share_weights_or_take_longer_alone(monkeypatch):
    """The rest of the model costs nothing less than 0: shared weights count there, and times are scaled to the model's."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8)
            self.first.weight = block[0].weight

        def forward(self, x):
            return x + self.last(self.first(x).relu())

    model = nn.Sequential(*(Residual() for _ in range(3)))
    units = [1.0] * (3 * 2)  # each as it is and of half the width
    times = iter([*units, 2.0])
    monkeypatch.setattr(sys.modules["pynas.costs.latency"], "time_calls", timed(lambda call: next(times)))
    planned = plan(model, torch.randn(4, 8))
    net = planned.supernet(widths=(1.0, 0.5))
    costs = planned.costs(net, latency=True)
    whole = costs.of(net.original)
    assert whole["params"] == sum(p.numel() for p in model.parameters()) and whole["latency"] == pytest.approx(2.0)
    assert costs.fixed["params"] == block[0].weight.numel() and costs.fixed["latency"] == pytest.approx(0, abs=1e-9)
    for architecture in net.space.architectures():
        counted, small = costs.of(architecture)["params"], net.extract(architecture)
        assert sum(p.numel() for p in small.parameters()) <= counted
