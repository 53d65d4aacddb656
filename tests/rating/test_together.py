"""Candidates that compute their common part once score as each alone, and are called once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.rating import Settings, rate

from .models import NAIVE_LOSSES, alone


class Weights(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.BatchNorm1d(width)


class Hidden(nn.Module):
    """An entangled layer: the first `hidden` features of a shared one, then its input widths by accumulation."""

    calls = 0
    wrong = False

    def __init__(self, weights, hidden):
        super().__init__()
        self.weights, self.hidden = weights, hidden

    def forward(self, x):
        first, second = self.weights.first, self.weights.second
        y = F.relu(F.linear(x, first.weight[: self.hidden], first.bias[: self.hidden]))
        return self.weights.norm(x + F.linear(y, second.weight[:, : self.hidden], second.bias))

    @classmethod
    def run_together(cls, candidates, x):
        Hidden.calls += 1
        weights, widths = candidates[0].weights, sorted({candidate.hidden for candidate in candidates})
        y = F.relu(F.linear(x, weights.first.weight[: widths[-1]], weights.first.bias[: widths[-1]]))
        total, done, outputs = x + weights.second.bias, 0, {}
        for width in widths:
            total = torch.addmm(total, y[:, done:width], weights.second.weight[:, done:width].T)
            outputs[width], done = weights.norm(total), width
        return [outputs[candidate.hidden] * (2 if cls.wrong else 1) for candidate in candidates]


@pytest.fixture
def layers():
    torch.manual_seed(0)
    weights = [Weights(6, 8) for _ in range(3)]
    return [[*(Hidden(w, hidden) for hidden in (2, 8, 5)), nn.Identity()] for w in weights]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize("stack", [1, "memory"])
def test_scores_are_those_of_each_alone(layers, norm, stack, wrong, monkeypatch):
    monkeypatch.setattr(Hidden, "wrong", wrong)
    batches = [(torch.randn(n, 6), torch.randn(n, 6)) for n in (8, 5)]
    calibration = [torch.randn(7, 6)]
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], norm, calibration)
    table = rate(layers, batches, "mse", norm, calibration=calibration, engine=Settings(stack=stack, workers=2))
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)


def test_the_common_part_runs_once_for_all(layers, monkeypatch):
    batches = [(torch.randn(8, 6), torch.randn(8, 6)) for _ in range(2)]
    monkeypatch.setattr(Hidden, "calls", 0)
    rate(layers, batches, engine=Settings(stack="memory", workers=1))
    assert Hidden.calls <= 2 * (1 + 2 * 2) + 3 + 3
    listed = [(0, 0, 0), (1, 3, 2), (2, 3, 1)]
    full = rate(layers, batches)
    some = rate(layers, batches, paths=listed)
    for path in listed:
        assert some[path] == pytest.approx(full[path], rel=1e-6)
