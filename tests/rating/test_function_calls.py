"""Batch norm that a module calls as a function has the statistics of each path; settings of one module stay apart."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.rating import configured, encoded, rate, set_attributes

from .models import NAIVE_LOSSES, alone


def seeded(norm):
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


class Called(nn.Module):
    """Calls batch norm on a slice; by the norm's mode, by its own, or in evaluation mode whatever the mode."""

    def __init__(self, follows):
        super().__init__()
        self.bn, self.follows = seeded(nn.BatchNorm1d(8)), follows

    def forward(self, x):
        if self.follows == "norm alone" and self.training:
            raise RuntimeError("expected labels in training mode")
        training = {"module": self.training, "frozen": False}.get(self.follows, self.bn.training)
        bn, momentum = self.bn, 0.1
        if training:
            bn.num_batches_tracked += 1
            momentum = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
        y = F.batch_norm(
            x[:, :6], bn.running_mean[:6], bn.running_var[:6], bn.weight[:6], bn.bias[:6], training, momentum
        )
        return torch.cat([y, x[:, 6:]], 1)


class Direct(nn.Module):
    """Calls `torch.batch_norm`, in place of the function of `torch.nn.functional`; by a name of its own or not."""

    kept = staticmethod(torch.batch_norm)

    def __init__(self, by_own_name):
        super().__init__()
        self.bn, self.by_own_name = seeded(nn.BatchNorm1d(8)), by_own_name

    def forward(self, x):
        bn, function = self.bn, self.kept if self.by_own_name else torch.batch_norm
        return function(x, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.training, 0.1, 1e-5, False)


class OwnForward(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


def layers_with(part):
    torch.manual_seed(0)
    return [
        [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)],
        [part, nn.Identity()],
        [nn.Linear(8, 8), copy.deepcopy(part)],
    ]


def data(*sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 8), torch.randn(n, 8)) for n in sizes]


@pytest.mark.parametrize("stack", [1, 2, "memory"])
@pytest.mark.parametrize("norm", ["running", "batch", "recalibrate"])
@pytest.mark.parametrize("follows", ["norm", "norm alone", "own forward"])
def test_calls_that_follow_the_norm(follows, norm, stack):
    layers = layers_with(seeded(OwnForward(8)) if follows == "own forward" else Called(follows))
    batches, calibration = data(6, 5), [x for x, _ in data(7, 7, 7)]
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], norm, calibration)
    found = rate(layers, batches, "mse", norm, calibration=calibration, stack=stack).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "recalibrate"])
@pytest.mark.parametrize("follows", ["module", "frozen"])
def test_calls_that_follow_the_module_or_nothing(follows, norm):
    """A module that follows its own mode is rated like one that follows its norm's; a frozen one keeps its statistics."""
    layers, batches = layers_with(Called(follows)), data(6, 5)
    alike = copy.deepcopy(layers)
    for layer in alike:
        for part in layer:
            if isinstance(part, Called):
                part.follows = "norm"
    expected = alone(alike, batches, NAIVE_LOSSES["mse"], "running" if follows == "frozen" else norm, [batches[0][0]])
    found = rate(layers, batches, "mse", norm, calibration=[batches[0][0]]).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class OfOneSample(Called):
    """Its frozen norm gets one value per channel, of which there are no statistics."""

    def forward(self, x):
        return x + super().forward(x[:1])


@pytest.mark.parametrize("last", [Called("frozen"), OfOneSample("frozen")])
def test_a_frozen_norm_is_not_taken_for_those_before_it(last):
    torch.manual_seed(0)
    layers, batches = [[Called("norm"), Called("norm"), last], [nn.Linear(8, 8), copy.deepcopy(last)]], data(6, 5)
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], "batch")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not known to keep the samples of a batch apart")
        found = rate(layers, batches, "mse", "batch", workers=1).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_norms_that_follow_are_run_once_where_all_before_did(monkeypatch):
    runs = []
    monkeypatch.setattr(
        Called, "forward", lambda self, x, run=Called.forward: (runs.append(self.training), run(self, x))[1]
    )
    layers = [[Called("norm") for _ in range(5)]]
    rate(layers, data(6), "mse", "batch", workers=1)
    # Each in evaluation mode once, the first once more, and each in training mode once, which shows whose statistics it takes.
    assert (runs.count(False), runs.count(True)) == (6, 5)


def test_a_module_that_shows_no_mode_is_refused():
    class Refuses(Called):
        def forward(self, x):
            if self.training or self.bn.training:
                raise RuntimeError("no training here")
            return super().forward(x)

    with pytest.raises(InputError, match="runs in training mode.*Refuses"):
        rate(layers_with(Refuses("norm")), data(4), "mse", "batch")


class Net(nn.Module):
    """Settings that are not all set by each configuration, and a table of slices."""

    def __init__(self):
        super().__init__()
        self.linear, self.width, self.scale, self.kept = nn.Linear(8, 8), 8, 1.0, {}

    def forward(self, x):
        self.kept["weight"] = self.linear.weight[: self.width]
        return F.pad(F.linear(x, self.kept["weight"]), (0, 8 - self.width)) * self.scale


@pytest.mark.parametrize("workers", [1, 2])
def test_settings_of_one_module_do_not_pass_to_the_next(workers):
    torch.manual_seed(0)
    net, batches = Net(), data(4, 5, 4)
    configs = [{"width": 3}, {"scale": 2.0}, {"width": 5, "scale": 0.5}, {}] * 3
    before = copy.deepcopy(vars(net))
    scores = rate([configured(net, configs, set_attributes)], batches, "mse", workers=workers).scores
    for config, score in zip(configs, scores):
        model = copy.deepcopy(net)
        set_attributes(model, config)
        with torch.no_grad():
            losses = [float(F.mse_loss(model(x), target)) * len(x) for x, target in batches]
        assert score == pytest.approx(sum(losses) / 13, rel=1e-5)
    assert {k: vars(net)[k] for k in ("width", "scale", "kept")} == {k: before[k] for k in ("width", "scale", "kept")}


def test_one_module_in_many_candidates_is_copied_once_per_thread():
    copies = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def __deepcopy__(self, memo):
            copies.append(1)
            copied = Counted()
            copied.linear = copy.deepcopy(self.linear, memo)
            return copied

        def forward(self, x, code):
            return self.linear(x) * code

    layers, batches = [encoded(Counted(), range(1, 21))], data(4)
    table = rate(layers, batches, "mse", workers=1)
    assert len(table) == 20 and len(copies) == 2  # one to copy from, one to run


def test_a_flat_list_of_modules_is_refused():
    with pytest.raises(InputError, match=r"one layer is \[candidates\]"):
        rate([nn.Linear(8, 8), nn.Linear(8, 8)], data(4))


@pytest.mark.parametrize("by_own_name", [False, True])
@pytest.mark.parametrize("norm", ["running", "batch"])
def test_torchs_own_function(norm, by_own_name):
    layers, batches = layers_with(Direct(by_own_name)), data(5, 5, 5)
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], norm)
    found = rate(layers, batches, "mse", norm).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_functions_of_torch_are_put_back():
    before = torch.batch_norm, nn.Module.__setattr__
    inside = []

    class Looks(nn.Module):
        def forward(self, x):
            inside.append((torch.batch_norm, nn.Module.__setattr__))
            return x

    rate([[Looks(), nn.Linear(8, 8)]], data(4))
    with pytest.raises(InputError):
        rate([[Looks(), nn.Linear(7, 8)]], data(4))
    assert inside and all(a is not b for seen in inside for a, b in zip(seen, before))
    assert (torch.batch_norm, nn.Module.__setattr__) == before
