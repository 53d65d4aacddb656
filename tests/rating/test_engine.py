"""Stacks, workers, types, layouts: the scores stay those of each path alone."""

import contextlib
import copy
import threading
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from pynas.rating import Settings, rate, rate_population

from .models import NAIVE_LOSSES, alone, mbconv_layers, some_batches


@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize(("workers", "stack"), [(1, "memory"), (3, "memory"), (1, "cache"), (1, 3)])
def test_stacked_paths_score_as_alone(norm, workers, stack):
    layers, batches = mbconv_layers(), some_batches()
    calibration = [torch.randn(n, 4, 8, 8) for n in (5, 3)]
    table = rate(layers, batches, norm=norm, calibration=calibration, engine=Settings(workers=workers, stack=stack))
    expected = alone(layers, batches, NAIVE_LOSSES["relative_l1"], norm, calibration)
    np.testing.assert_allclose(table.scores, expected, rtol=2e-5)


def test_a_level_runs_each_candidate_once():
    layers, batches = mbconv_layers(), some_batches((4, 4))
    sizes = []
    for module in layers[2]:
        module.register_forward_hook(lambda module, args, y: sizes.append(len(args[0]) // 4))
    rate(layers, batches, engine=Settings(workers=1, stack="memory"))
    assert sizes[-4:] == [16] * 4


@pytest.mark.parametrize("norm", ["batch", "recalibrate"])
def test_recalibration_differs_from_other_modes(norm):
    layers, batches = mbconv_layers(depth=2), some_batches()
    calibration = [torch.randn(6, 4, 8, 8) + 1]
    scores = rate(layers, batches, norm=norm, calibration=calibration).scores
    expected = alone(layers, batches, NAIVE_LOSSES["relative_l1"], norm, calibration)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert np.abs(scores / rate(layers, batches, norm="running").scores - 1).min() > 1e-3


def test_results_do_not_depend_on_the_workers():
    layers, batches = mbconv_layers(), some_batches()
    one, four = (rate(layers, batches, engine=Settings(workers=workers, stack=1)).scores for workers in (1, 4))
    np.testing.assert_array_equal(one, four)
    assert torch.get_num_threads() == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pynas")]


def test_two_runs_give_the_same_bits():
    layers, batches = mbconv_layers(), some_batches()
    calibration = [batches[0][0]]
    runs = [
        (
            rate(layers, batches, engine=Settings(workers=3)).scores,
            rate_population(
                layers, [(x, x + 1) for x, _ in batches], calibration=calibration, engine=Settings(workers=3)
            ).scores,
        )
        for _ in range(3)
    ]
    for run in runs[1:]:
        for first, again in zip(runs[0], run):
            np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("channels_last", [False, True])
def test_double_precision_is_nearly_exact(channels_last):
    layers, batches = mbconv_layers(), some_batches()
    layers = [[module.double() for module in layer] for layer in layers]
    batches = [(x.double(), target.double()) for x, target in batches]
    table = rate(layers, batches, engine=Settings(channels_last=channels_last))
    np.testing.assert_allclose(table.scores, alone(layers, batches, NAIVE_LOSSES["relative_l1"], "batch"), rtol=1e-12)


def test_bfloat16_ranks_nearly_alike():
    layers, batches = mbconv_layers(), some_batches((16, 16))
    full, half = (
        rate(layers, batches).scores.ravel(),
        rate(layers, batches, engine=Settings(dtype=torch.bfloat16)).scores.ravel(),
    )
    np.testing.assert_allclose(half, full, rtol=0.02)
    assert all(p.dtype == torch.float32 for layer in layers for module in layer for p in module.parameters())


class NoRoom(nn.Module):
    """Runs out of memory beyond a number of rows."""

    def __init__(self, module, rows):
        super().__init__()
        self.module, self.rows = module, rows

    def forward(self, x):
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("not that many")
        return self.module(x)


def test_out_of_memory_halves_the_stack():
    layers, batches = mbconv_layers(), some_batches((4, 4))
    tight = [[NoRoom(module, 12) for module in layer] for layer in layers]
    np.testing.assert_allclose(
        rate(tight, batches, engine=Settings(stack="memory")).scores, rate(layers, batches).scores, rtol=1e-5
    )
    with pytest.raises(torch.OutOfMemoryError):
        rate([[NoRoom(module, 3) for module in layer] for layer in layers], batches, engine=Settings(stack="memory"))


class OddBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class Whitening(nn.Module):
    """Mixes samples and is no batch norm."""

    def forward(self, x):
        return x / x.pow(2).mean().sqrt()


@pytest.mark.parametrize("norm", ["batch", "running"])
@pytest.mark.parametrize("make", [lambda: OddBatchNorm(6), Whitening])
def test_modules_that_mix_samples_run_path_by_path(make, norm):
    layers, batches = mbconv_layers(), some_batches()
    layers[1].append(make())
    layers[2].append(make())
    # A batch norm with a forward of its own calls F.batch_norm, whose statistics are those of each path.
    with pytest.warns(match="Whitening") if make is Whitening else contextlib.nullcontext():
        table = rate(layers, batches, norm=norm, engine=Settings(stack="memory"))
    np.testing.assert_allclose(table.scores, alone(layers, batches, NAIVE_LOSSES["relative_l1"], norm), rtol=2e-5)


class OwnFormula(nn.BatchNorm2d):
    def forward(self, x):
        return (x - self.running_mean[:, None, None]) / (self.running_var[:, None, None] + self.eps).sqrt()


def test_unknown_batch_norm_cannot_be_re_estimated():
    layers, batches = mbconv_layers(), some_batches()
    layers[1][0].bn2 = OwnFormula(12)
    with pytest.raises(ValueError, match="OwnFormula at bn2 of MBConv"):
        rate(layers, batches, norm="recalibrate", calibration=[batches[0][0]])


class Odd(nn.Module):
    """Norms in every position that fusion must tell apart."""

    def __init__(self, channels, kind):
        super().__init__()
        self.conv, self.kind = nn.Conv2d(channels, channels, 1), kind
        self.bn, self.act = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.other = BatchNormAct2d(channels, act_layer=nn.SiLU if kind == "timm_silu" else nn.GELU)

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "two_users":
            return self.bn(y) + y
        if self.kind == "norm_twice":
            z = self.bn(y)
            return z.relu() + z
        if self.kind == "residual_then_relu":
            return torch.relu(x + self.bn(y))
        if self.kind == "in_place_sum":
            y = self.bn(y)
            y += x
            return self.act(y)
        if self.kind == "broadcast":
            return self.bn(y) + x.mean((2, 3), keepdim=True)
        if self.kind == "scaled_sum":
            return torch.add(self.bn(y), x, alpha=2)
        if self.kind == "branches_on_values":
            return self.bn(y) if float(y.sum()) > 1e9 else self.act(self.bn(y))
        if self.kind == "itself":
            z = self.bn(y)
            return z + z
        return self.other(y)


KINDS = ["two_users", "norm_twice", "residual_then_relu", "in_place_sum", "broadcast", "scaled_sum"]
KINDS += ["branches_on_values", "itself", "timm_silu", "timm_gelu"]


@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
def test_norms_in_odd_positions(norm):
    torch.manual_seed(0)
    layers = [[Odd(4, kind) for kind in KINDS] for _ in range(2)]
    batches = [(x, torch.randn_like(x)) for x, _ in some_batches((4, 6))]
    calibration = [torch.randn(5, 4, 8, 8)]
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], norm, calibration)
    with pytest.warns(match="through: Odd"):  # that branches on a value
        table = rate(layers, batches, "mse", norm, calibration=calibration, engine=Settings(stack="memory"))
    np.testing.assert_allclose(table.scores, expected, rtol=1e-4)


class Narrow(nn.Module):
    """Keeps or halves the resolution, as a trellis of scales does."""

    def __init__(self, halve):
        super().__init__()
        self.halve = halve

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2) if self.halve else x * 1.5


def test_siblings_of_different_shapes_under_a_rule():
    layers = [[Narrow(False), Narrow(True)] for _ in range(4)]
    batches = [(x, target[:, :4]) for x, target in some_batches()]
    allowed = lambda prefix: sum(prefix) <= 1 and (len(prefix) < 4 or sum(prefix) == 1)  # noqa: E731
    table = rate(layers, batches, allowed=allowed, engine=Settings(stack="memory"))
    assert len(table) == 4
    np.testing.assert_allclose(table[0, 0, 1, 0], table[1, 0, 0, 0], rtol=1e-5)


def test_tail_and_its_losses():
    layers, batches = mbconv_layers(depth=2), some_batches()
    tail = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    nn.init.uniform_(tail[0].running_mean)
    fixed = copy.deepcopy(tail).eval()
    labels = [(x, torch.randint(5, (len(x),))) for x, _ in batches]
    logits = [(x, torch.randn(len(x), 5)) for x, _ in batches]
    naive = {
        "kl": lambda y, t: nn.functional.kl_div(
            fixed(y).log_softmax(1), t.log_softmax(1), log_target=True, reduction="batchmean"
        ),
        "cross_entropy": lambda y, t: nn.functional.cross_entropy(fixed(y), t),
        "error": lambda y, t: (fixed(y).argmax(1) != t).double().mean(),
    }
    for loss, reference in naive.items():
        data = logits if loss == "kl" else labels
        table = rate(layers, data, loss, tail=tail)
        assert table.shape == (4, 4)
        np.testing.assert_allclose(table.scores, alone(layers, data, reference, "batch"), rtol=1e-4, atol=1e-7)
    table = rate(
        layers, labels, "cross_entropy", "recalibrate", tail=tail, tail_norm="batch", calibration=[batches[0][0]]
    )
    own = copy.deepcopy(tail)
    reference = alone(
        layers, labels, lambda y, t: nn.functional.cross_entropy(own(y), t), "recalibrate", [batches[0][0]]
    )
    np.testing.assert_allclose(table.scores, reference, rtol=1e-4)


class Views(nn.Module):
    """Assumes contiguous features, as much code does."""

    def __init__(self):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        return self.bn(self.conv(x)).view(b, c, h * w).softmax(2).view(b, c, h, w) * x


@pytest.mark.parametrize("stack", [1, "memory"])
def test_code_that_assumes_contiguous_features(stack):
    layers, batches = mbconv_layers(), some_batches()
    layers[1].append(Views())
    layers[2].append(Views())

    def flat(y, target):
        return (y.view(len(y), -1) - target.view(len(y), -1)).abs().mean()

    table = rate(layers, batches, flat, engine=Settings(stack=stack))
    np.testing.assert_allclose(table.scores, alone(layers, batches, flat, "batch"), rtol=2e-5)


def test_inputs_that_want_a_gradient():
    layers, batches = mbconv_layers(depth=2), some_batches()
    wanting = [(x.clone().requires_grad_(), target.clone().requires_grad_()) for x, target in batches]
    np.testing.assert_array_equal(rate(layers, wanting).scores, rate(layers, batches).scores)


class Tracked(nn.Module):
    """Counts the bytes of all outputs that are alive when it runs."""

    alive, peak = weakref.WeakSet(), 0

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        y = self.module(x)
        Tracked.alive.add(y)
        Tracked.peak = max(Tracked.peak, sum(output.nbytes for output in list(Tracked.alive)))
        return y


@pytest.mark.parametrize("budget", [1, 40, 400])
def test_features_stay_within_the_budget(budget, monkeypatch):
    layers = [[Tracked(module) for module in layer] for layer in mbconv_layers(depth=4)]
    one = 4 * 6 * 4 * 4 * 4
    batches = some_batches((4,))
    monkeypatch.setattr(Tracked, "alive", weakref.WeakSet())
    monkeypatch.setattr(Tracked, "peak", 0)
    table = rate(layers, batches, engine=Settings(stack="memory", workers=1, max_bytes=budget * one))
    assert Tracked.peak <= max(budget, 4 + 2) * one  # a path's own features and the two runs of a first look
    if budget == 400:
        assert Tracked.peak > 20 * one
    np.testing.assert_allclose(table.scores, rate(layers, batches, engine=Settings(stack=1)).scores, rtol=1e-5)


class Sized(nn.Sequential):
    """Notes the rows of its inputs."""

    rows: ClassVar[list[int]] = []

    def forward(self, x):
        self.rows.append(len(x))
        return super().forward(x)


def test_wide_modules_get_smaller_stacks():
    """A stack's features fit a core's cache with what the modules make of them: 64 KB a path, four times inside or not."""
    most = []
    for inside in (16, 64):
        Sized.rows = []
        thin = [[nn.Conv2d(16, 16, 1) for _ in range(4)] for _ in range(2)]
        last = [Sized(nn.Conv2d(16, inside, 1), nn.Conv2d(inside, 16, 1))]
        x = torch.randn(4, 16, 16, 16)
        rate([*thin, last], [(x, x)], workers=1)
        most.append(max(Sized.rows) // 4)
    assert most == [16, 4]
