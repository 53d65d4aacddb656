"""Modules that are special with side inputs: they mix samples, write, keep state, share work or call batch norm."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.rating import rate
from pynas.rating.copies import private_copy
from pynas.rating.fusion import FusedNorm, fuse
from pynas.rating.norms import PathContext, install
from pynas.supernets.setting import Setting

from .models import alone
from .test_sides import WIDTH, Side, features, layers_with, naive, plain

MIXING = {
    "sum over the samples": lambda s, x, side: s.linear(x) + side["bias"].cumsum(0),
    "largest of the side": lambda s, x, side: s.linear(x) * (side["bias"].flip(0) > 0),
    "branch on the samples": lambda s, x, side: x.cumsum(0) if side["bias"].max() > 2.5 else x,
    "branch on the table": lambda s, x, side: x.cumsum(0) if side["table"][0, 0] > 0 else x,
    "numpy": lambda s, x, side: x.cumsum(0) if side["table"].numpy()[0, 0] > 0 else x,
    "row numbers": lambda s, x, side: x + side["bias"] * torch.arange(len(x))[:, None],
}


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("workers", [1, 2])
def test_samples_that_meet_through_the_side_are_found(name, workers):
    layers = layers_with(MIXING[name])
    batches = features(sizes=(4, 3, 4, 4))
    expected = naive(layers, batches, F.mse_loss)
    with pytest.warns(UserWarning, match="apart, so paths run one at a time through: Side"):
        table = rate(layers, batches, "mse", workers=workers, stack=4)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)


WRITING = {
    "samples": lambda s, x, side: s.linear(x) + side["bias"].mul_(2),
    "table": lambda s, x, side: s.linear(x) + side["table"].add_(1),
    "through a view": lambda s, x, side: (side["bias"][:, 0].zero_(), s.linear(x) + side["bias"])[1],
    "equal values at first": lambda s, x, side: (side["bias"][:, 0].fill_(0.5), s.linear(x) + side["bias"])[1],
    "late": lambda s, x, side: s.linear(x) + (side["bias"].mul_(2) if side["bias"][0, 0] != 0.5 else side["bias"]),
    "dictionary": lambda s, x, side: s.linear(x) + side.pop("bias"),
}


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stack", [1, 3])
def test_a_write_to_the_side_is_not_seen_by_others(name, workers, stack, monkeypatch):
    layers = layers_with(WRITING[name])
    layers[0].append(Side(WRITING[name]))
    batches = features()
    batches[0][2]["bias"][:, 0] = 0.5
    kept, expected = copy.deepcopy(batches), naive(layers, batches, F.mse_loss)
    monkeypatch.setattr(Side, "largest", 0)
    with pytest.warns(UserWarning, match="one at a time") if name == "late" and stack > 1 else contextlib.nullcontext():
        table = rate(layers, batches, "mse", workers=workers, stack=stack)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)
    assert Side.largest == stack * 4
    for (_, _, side), (_, _, before) in zip(batches, kept):
        assert side.keys() == before.keys() and all(torch.equal(side[name], before[name]) for name in before)


def test_values_that_are_no_tensors_may_change_from_batch_to_batch():
    def steps(self, x, side):
        return x.cumsum(0) if side["mix"] else self.linear(x)

    layers = layers_with(steps)
    batches = [(x, y, {**side, "mix": k == 2}) for k, (x, y, side) in enumerate(features(sizes=(4, 4, 4)))]
    expected = naive(layers, batches, F.mse_loss)
    with pytest.warns(UserWarning, match="cumsum"):
        np.testing.assert_allclose(rate(layers, batches, "mse", stack=4).scores, expected, rtol=1e-5)


@pytest.mark.parametrize("key", ["bias", "table"])
def test_a_side_that_is_kept_for_later_batches_is_state(key):
    def keeps(self, x, side):
        if not hasattr(self, "kept"):
            self.kept = side[key] * 2
        return self.linear(x) + self.kept

    layers, batches = layers_with(keeps), features(sizes=(4, 4, 4))
    expected = naive(layers, batches, F.mse_loss)
    with pytest.warns(UserWarning, match="each path runs alone"):
        np.testing.assert_allclose(rate(layers, batches, "mse", workers=2).scores, expected, rtol=1e-5)


@pytest.mark.parametrize("writes", [False, True])
def test_modules_with_state_run_alone_with_their_sides(writes):
    class Counting(Side):
        def __init__(self):
            super().__init__(None)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x, side):
            self.count += 1
            bias = side["bias"].mul_(2) if writes else side["bias"]
            return self.linear(x) + self.count * bias

    layers, batches, tail = layers_with(plain), features(), Side(plain)
    layers[1].append(Counting())
    expected = naive(layers, batches, F.mse_loss, tail)
    for given in (batches, iter(batches)):
        with pytest.warns(UserWarning, match="each path runs alone"):
            np.testing.assert_allclose(rate(layers, given, "mse", tail=tail).scores, expected, rtol=1e-5)


@pytest.mark.parametrize("writes", [False, True])
def test_candidates_that_run_together_get_the_side(writes):
    class Hidden(nn.Module):
        calls = alone = 0

        def __init__(self, linear, width):
            super().__init__()
            self.linear, self.width = linear, width

        def forward(self, x, side):
            Hidden.alone += 1
            return F.linear(x, self.linear.weight) * side["bias"] * (torch.arange(WIDTH) < self.width) + x

        @classmethod
        def run_together(cls, candidates, x, side):
            Hidden.calls += 1
            y = F.linear(x, candidates[0].linear.weight) * side["bias"]
            if writes:
                side["bias"].zero_()
            return [y * (torch.arange(WIDTH) < candidate.width) + x for candidate in candidates]

    torch.manual_seed(0)
    shared = [nn.Linear(WIDTH, WIDTH) for _ in range(3)]
    layers, batches = [[Hidden(linear, width) for width in (4, 9, 16)] for linear in shared], features((4, 3, 4, 4))
    expected = naive(layers, batches, F.mse_loss)
    Hidden.alone = 0
    np.testing.assert_allclose(rate(layers, batches, "mse", workers=1, stack="memory").scores, expected, rtol=1e-5)
    assert Hidden.calls > 0 and (Hidden.alone < 4 * 3 * 3) != writes


class Norm(nn.Module):
    """Batch norm as a module or a function, and an activation that fuses with it."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.bn, self.function = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), function

    def forward(self, x, side):
        y, bn = self.linear(x) + side["bias"], self.bn
        if self.function:
            y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.training, 1.0, bn.eps)
        else:
            y = bn(y)
        return torch.relu(y + side["bias"])


class Packed(nn.Module):
    """A module whose bias is the second half of its input, for `alone`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, z):
        x, bias = z.chunk(2, 1)
        return torch.cat([self.module(x, {"bias": bias}), bias], 1)


@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize("function", [False, True])
def test_batch_norm_with_a_side(norm, function):
    torch.manual_seed(0)
    layers, batches, ((x, _, side),) = (
        [[Norm(function) for _ in "abc"] for _ in "abc"],
        features((4, 3, 4)),
        features((6,), seed=2),
    )
    packed = [[Packed(module) for module in layer] for layer in layers]
    halves = [(torch.cat([x, side["bias"]], 1), target) for x, target, side in batches]
    loss = lambda z, target: F.mse_loss(z[:, :WIDTH], target)  # noqa: E731
    expected = alone(packed, halves, loss, norm, [torch.cat([x, side["bias"]], 1)])
    table = rate(layers, batches, "mse", norm, calibration=[(x, side)], workers=2)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)


def test_settings_fuse_with_a_side_and_without():
    class Plain(Norm):
        def forward(self, x):
            return torch.relu(self.bn(self.linear(x)))

    for module, given in ((Norm(False), True), (Plain(False), False)):
        setting = private_copy(Setting(module, 1, prepare=lambda layer, choice: None))
        install([setting], "batch", PathContext())
        fused = fuse(setting, given)
        assert [type(part) for part in fused.children() if isinstance(part, FusedNorm)] == [FusedNorm]
        ((x, _, side),) = features((4,))
        torch.testing.assert_close(*(part(x, side) if given else part(x) for part in (fused, setting)))
