"""Scores are those of each path alone, also through modules that mix samples, keep state or draw random numbers."""

import contextlib
import copy
import inspect
import random
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.rating import rate, rate_population

CHANNELS = 8


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def module(forward, **state):
    """A module with this forward, and buffers or attributes."""

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    self.register_buffer(name, value.clone())
                else:
                    setattr(self, name, copy.deepcopy(value))

        def forward(self, x):
            return forward(self, x)

    return Custom()


class Scripted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.abs().max()) > 10:
            return x / x.abs().max()
        return x


class Counting(nn.Module):
    calls: int

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return x * float(self.calls)


@pytest.fixture
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        yield torch.jit.script


def naive(layers, batches):
    """Mean squared error of every path, each from fresh copies and the same random numbers, over the batches in turn."""
    scores = np.zeros([len(layer) for layer in layers])
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    for path in np.ndindex(*scores.shape):
        torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])  # noqa: NPY002
        modules = copy.deepcopy([layer[choice] for layer, choice in zip(layers, path)])
        total = 0.0
        with torch.no_grad():
            for x, target in batches:
                y = x.clone()
                for part in modules:
                    y = part.eval()(y)
                total += float(F.mse_loss(y, target)) * len(x)
        scores[path] = total / sum(len(x) for x, _ in batches)
    torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])  # noqa: NPY002
    return scores


def ghost(x, rows):
    return torch.cat([part - part.mean(0) for part in x.split(rows)])


MIXING = {
    "largest of the batch, late": lambda s, x: x / (x.abs().amax() / 10).clamp_min(1.0),
    "branch on a value": lambda s, x: x / x.abs().max() if x.abs().max() > 10 else x,
    "dynamic quantiser": lambda s, x: torch.fake_quantize_per_tensor_affine(x, float(x.abs().max() / 127), 0, -128, 127),
    "only large stacks": lambda s, x: x - x.mean(0) * (len(x) >= 12),
    "batch size": lambda s, x: x / len(x),
    "size of large stacks": lambda s, x: x / len(x) if len(x) >= 12 else x,
    "attention over the batch": lambda s, x: (x @ x.T).softmax(1) @ x,
    "sorted batch": lambda s, x: x.sort(0).values,
    "ghost norm": lambda s, x: ghost(x, 3),
    "batch norm": lambda s, x: F.batch_norm(x, None, None, training=True),
    "view across samples": lambda s, x: x.reshape(2, -1).softmax(1).reshape(x.shape),
    "written through a view": lambda s, x: (y := x * 1.5, y[:, 0].copy_(y.mean(0)[0].expand(len(y))))[0],
    "numpy": lambda s, x: x * torch.from_numpy(np.abs(x.numpy()).max(keepdims=True)),
    "list": lambda s, x: x * max(x.flatten().tolist()),
    "row numbers": lambda s, x: x + torch.arange(len(x))[:, None],
}  # fmt: skip


def _ring(self, x):
    row = int(self.row) % 4
    self.rows[row] = x.mean(0)
    self.row += 1
    return x + self.rows.mean(0)


def _hidden(self, x):
    self.h = x if self.h is None or self.h.shape != x.shape else 0.5 * self.h + x
    return x + self.h


def _calibrated(self, x):
    if self.scale is None:
        self.scale = x.abs().amax()
    return x / self.scale


def _assign(self, name, value):
    setattr(self, name, value)
    return value


ZERO = torch.zeros(())
STATEFUL = {
    "counter": (lambda s, x: x * _assign(s, "n", s.n + 1), {"n": 0}),
    "running mean": (lambda s, x: x - s.m.mul_(0.9).add_(x.mean() * 0.1), {"m": ZERO}),
    "running mean, assigned": (lambda s, x: x - _assign(s, "m", 0.9 * s.m + x.mean()), {"m": ZERO}),
    "data replaced": (lambda s, x: x - _assign(s.m, "data", s.m.data * 0.9 + x.mean()), {"m": ZERO}),
    "memory bank": (lambda s, x: (s.q.append(x.mean(0)), x - torch.stack(s.q).mean(0))[1], {"q": []}),
    "ring buffer": (_ring, {"rows": torch.zeros(4, CHANNELS), "row": ZERO.long()}),
    "hidden state": (_hidden, {"h": None}),
    "calibrated once": (_calibrated, {"scale": None}),
    "dropout": (lambda s, x: F.dropout(x, training=True), {}),
    "numpy noise": (lambda s, x: x * float(np.random.rand()), {}),  # noqa: NPY002
    "python noise": (lambda s, x: x * random.random(), {}),
    "own generator": (lambda s, x: x + torch.randn(CHANNELS, generator=s.g), {"g": torch.Generator()}),
}


def layers_with(part):
    return [[Scale(1.0), Scale(1.1), Scale(100.0)], [part, nn.Tanh()], [nn.Identity(), copy.deepcopy(part)]]


def batches_of(*sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, CHANNELS), torch.randn(n, CHANNELS)) for n in sizes]


OPTIONS = [{}, {"stack": "memory"}, {"stack": 1, "workers": 1}, {"stack": 3, "workers": 2}]


def check(layers, message, sizes=(4, 4)):
    batches, before = batches_of(*sizes), copy.deepcopy(layers)
    expected = naive(layers, batches)
    for options in OPTIONS:
        quiet = options.get("stack") == 1 and "through" in message
        with contextlib.nullcontext() if quiet else pytest.warns(match=message):
            scores = rate(layers, iter(batches), "mse", "running", **options).scores
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    for layer, old in zip(layers, before):
        for part, other in zip(layer, old):
            assert all(torch.equal(a, b) for a, b in zip(part.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("kind", MIXING)
def test_modules_that_mix_samples(kind):
    check(layers_with(module(MIXING[kind])), "one at a time through: Custom")


@pytest.mark.parametrize("kind", STATEFUL)
def test_modules_with_state_or_random_numbers(kind):
    forward, state = STATEFUL[kind]
    check(layers_with(module(forward, **state)), "Custom keeps state")


def test_a_buffer_of_the_batch_size():
    check(layers_with(module(lambda s, x: x + s.b, b=torch.randn(4, CHANNELS))), "through: Custom")


def test_a_module_that_writes_to_its_weights():
    part = nn.Linear(CHANNELS, CHANNELS)
    part.register_forward_hook(lambda m, args, y: (m.weight.data.mul_(0.5), y)[1])
    check(layers_with(part), "Linear keeps state", sizes=(4, 3))


def test_observers_of_quantisation_aware_training():
    quantised = nn.Sequential(
        nn.Linear(CHANNELS, CHANNELS), FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    )
    check(layers_with(quantised), "Sequential keeps state", sizes=(4, 3))


def test_torchscript(scripted):
    check(layers_with(scripted(Scripted())), "through: Scripted")
    check(layers_with(scripted(Counting())), "Counting keeps state")


def test_modules_that_pass_tensors_beside_the_path():
    """A skip connection through a dictionary: what the second reads is of the run of the first before it."""
    skips = {}

    def first(self, x):
        skips["x"] = x * self.factor
        return x + 1

    layers = [
        [module(first, factor=f) for f in (1.0, 3.0)],
        [Scale(2.0), Scale(-1.0)],
        [module(lambda s, x: x + skips["x"])],
    ]
    check(layers, "Custom keeps state")


KEEPS = {
    "attention map": lambda s, x: x * _assign(s, "kept", x.softmax(1)),
    "auxiliary loss": lambda s, x: (_assign(s, "kept", x.var()), 2 * x)[1],
    "table": lambda s, x: x + (s.kept if s.kept is not None else _assign(s, "kept", torch.linspace(0, 1, CHANNELS))),
}


@pytest.mark.parametrize("kind", KEEPS)
def test_things_that_are_kept_and_not_read_cost_no_shared_work(kind):
    """A warning would fail this test."""
    layers, batches, sizes = layers_with(module(KEEPS[kind], kept=None)), batches_of(4), []
    layers[2][1].register_forward_hook(lambda m, args, y: sizes.append(len(y)))
    scores = rate(layers, batches, "mse", "running", stack="memory", workers=1).scores
    np.testing.assert_allclose(scores, naive(layers, batches), rtol=1e-4)
    assert max(sizes) > 4


def test_populations_with_state():
    forward, state = STATEFUL["running mean"]
    layers, batches = layers_with(module(forward, **state)), batches_of(4, 4)
    outputs = np.zeros((12, 2, 2, 4, CHANNELS))
    for row, path in enumerate(np.ndindex(3, 2, 2)):
        modules = copy.deepcopy([layer[choice] for layer, choice in zip(layers, path)])
        for b, pair in enumerate(batches):
            for v, x in enumerate(pair):
                outputs[row, b, v] = nn.Sequential(*modules)(x).detach().numpy()
    distances = np.square(outputs - outputs.mean(0)[:, ::-1]).sum(-1).mean(-1).sum(2).mean(1)
    with pytest.warns(match="keeps state"):
        table = rate_population(layers, batches, "running", normalize=False, both_views=True, stack="memory")
    np.testing.assert_allclose(table.scores.ravel(), distances, rtol=1e-4)


def exported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.randn(4, CHANNELS),)
        program = torch.export.export(nn.Sequential(nn.BatchNorm1d(CHANNELS)).eval(), example,
                                      dynamic_shapes=({0: torch.export.Dim("n")},))  # fmt: skip
        known = inspect.signature(program.module).parameters
        return program.module(**{"check_guards": False} if "check_guards" in known else {})  # younger than torch 2.7


@pytest.mark.parametrize("kind", ["script", "exported"])
def test_batch_norm_that_cannot_be_given_other_statistics(kind, scripted):
    """Its statistics are fixed in a graph."""
    plain = nn.Sequential(nn.BatchNorm1d(CHANNELS))
    part = {"script": lambda: scripted(plain.eval()), "exported": exported}[kind]()
    layers, batches = layers_with(part), batches_of(4)
    for norm in ("batch", "recalibrate"):
        with pytest.raises(InputError, match=r"(Sequential|GraphModule), which .* candidate 0 of layer 1"):
            rate(layers, batches, "mse", norm, calibration=[batches[0][0]])
    if kind != "exported":  # its `eval` is refused by the naive rating
        np.testing.assert_allclose(rate(layers, batches, "mse", "running").scores, naive(layers, batches), rtol=1e-4)


@pytest.mark.parametrize("tail", [False, True])
def test_a_module_that_keeps_state_and_fails_is_named(tail):
    """A path that runs alone names its layer, or the tail, as one in the tree does."""
    counts = module(lambda s, x: s.seen.add_(1) * x, seen=torch.zeros(()))
    layers, batches = layers_with(counts), batches_of(4)
    place = f"the tail after the path {(0,) * len(layers)}" if tail else f"candidate 0 of layer {len(layers) - 1} after"
    options = {"tail": nn.Linear(CHANNELS + 1, 2)} if tail else {}
    if not tail:
        layers[-1] = [nn.Linear(CHANNELS + 1, 2)]
    with warnings.catch_warnings(), pytest.raises(InputError, match=re.escape(place) + ".*RuntimeError"):
        warnings.simplefilter("ignore")
        rate(layers, batches, "mse", "running", **options)


def test_batch_norm_that_is_meant_to_be_frozen_stays_so():
    mean, var = torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5
    part = module(lambda s, x: F.batch_norm(x, s.mean, s.var), mean=mean, var=var)
    layers, batches = layers_with(part), batches_of(4)
    np.testing.assert_allclose(rate(layers, batches, "mse", "batch").scores, naive(layers, batches), rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_compiled_modules_rate_as_plain_ones(norm):
    plain = nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.ReLU())
    layers, batches = layers_with(plain), batches_of(4)
    compiled = [layers[0], [nn.Sequential(torch.compile(plain)), layers[1][1]], layers[2]]
    expected = rate(layers, batches, "mse", norm).scores
    np.testing.assert_allclose(rate(compiled, batches, "mse", norm).scores, expected, rtol=1e-6)
