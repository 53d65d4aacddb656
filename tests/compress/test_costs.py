"""Costs beside parameters and multiply-adds: kept keys and values, and time."""

from __future__ import annotations

import itertools

import pytest

from pynas.compress import plan
from pynas.compress.cuts import Cut
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


def test_latency_of_each_unit_alone(monkeypatch):
    """Times add up to that of the model where every unit is as it is."""
    batches = []

    class Timed:
        median = 2.0

    def timed(calls, device, repeats, warmup):
        batches.append(calls[0]().shape[0])
        return [Timed()]

    monkeypatch.setattr("pynas.compress.costs.time_calls", timed)
    model, call = built(FAMILIES["timm resnet18"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0, 0.5))
    costs = planned.costs(net, latency=True, batch=3)
    assert {*batches} == {3} and costs.metadata["device"]
    assert costs.of(net.original)["latency"] == pytest.approx(2.0)
    assert costs.metadata["reference"]["latency"] == pytest.approx(2.0)
    removed = [[len(cuts) - 1 if cuts[-1].left_out else 0 for _, cuts in block] for block in net.blocks]
    smallest = costs.of(Architecture.of((0, path) for path in removed))["latency"]
    assert smallest == pytest.approx(2.0 - 2.0 * sum(parts.unit.residual for parts in planned.parts))
    assert "latency" not in planned.costs(net).names
