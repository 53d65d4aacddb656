"""Squeeze-excitation of layers in training: one kernel, with the results of torch's modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pynas.nn import elastic, mbconv, squeeze_excitation
from pynas.nn.hytra import Bottleneck
from pynas.nn.squeeze_excitation import SqueezeExcitation

X = torch.randn(8, 24, 9, 9, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def kernel_calls(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the weights of the kernel's calls, of any size of the input."""
    calls, kernel = [], squeeze_excitation.squeeze_excitation
    monkeypatch.setattr(squeeze_excitation, "_LEAST_BYTES", {"cpu": 0})
    monkeypatch.setattr(
        squeeze_excitation,
        "squeeze_excitation",
        lambda *inputs: (calls.append(tuple(inputs[1].shape[:2])), kernel(*inputs))[1],
    )
    return calls


@pytest.fixture
def se() -> SqueezeExcitation:
    torch.manual_seed(0)
    return SqueezeExcitation(24, 6).train()


def by_modules(se, x):
    return x * se.gate(se.expand(se.act(se.reduce(x.mean((2, 3), keepdim=True)))))


def gradients(function, part, x, dtype=torch.float32) -> list[torch.Tensor]:
    x = x.detach().clone().requires_grad_()
    part.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = function(x)
    y.backward(X[:, : y.shape[1], : y.shape[2], : y.shape[3]].sin().to(y.dtype))
    return [y.detach(), x.grad, *(p.grad for p in part.parameters())]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_as_the_modules(layout, se, kernel_calls):
    x = X.contiguous(memory_format=layout)
    ours = gradients(se, se, x)
    assert kernel_calls == [(6, 24)]
    theirs = gradients(lambda x: by_modules(se, x), se, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours[0].stride() == theirs[0].stride() and ours[1].stride() == theirs[1].stride()


@pytest.mark.parametrize(("x_dtype", "calls"), [(torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 0)], ids=str)
def test_types_under_autocast(x_dtype, calls, se, kernel_calls):
    """float16 beside a gate of bfloat16 is a result of float32: the modules'."""
    x = X.to(x_dtype)
    ours = gradients(se, se, x, torch.bfloat16)
    theirs = gradients(lambda x: by_modules(se, x), se, x, torch.bfloat16)
    assert len(kernel_calls) == calls and [a.dtype for a in ours] == [b.dtype for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.03 * b.abs().max().item())


def test_types_that_the_modules_refuse(se, kernel_calls):
    for x in (X.double(), X.bfloat16()):
        with pytest.raises(RuntimeError):
            se(x)
    with pytest.raises(RuntimeError), torch.autocast("cpu", torch.bfloat16):
        se(X.double())
    assert se.bfloat16()(X.bfloat16()).dtype == torch.bfloat16 and len(kernel_calls) == 1


@pytest.mark.parametrize("x", [X[:, :20], X[0, :, :, 0]], ids=["channels", "axes"])
def test_other_shapes_are_torchs_errors(x, se, kernel_calls):
    with pytest.raises((RuntimeError, IndexError)):
        se(x)
    assert kernel_calls == []


class OwnConv(nn.Conv2d):
    pass


def own_forward(se):
    se.expand.forward = type(se.expand).forward.__get__(se.expand)


CHANGES = {
    "evaluation": lambda se: se.eval(),
    "hook": lambda se: se.reduce.register_forward_hook(lambda *_: None),
    "hook before": lambda se: se.gate.register_forward_pre_hook(lambda *_: None),
    "hook of the gradient": lambda se: se.gate.register_full_backward_hook(lambda *_: None),
    "own forward": own_forward,
    "own class": lambda se: setattr(se, "expand", OwnConv(6, 24, 1)),
    "no bias": lambda se: setattr(se, "reduce", nn.Conv2d(24, 6, 1, bias=False)),
    "padding": lambda se: setattr(se, "reduce", nn.Conv2d(24, 6, 3, padding=1)),
    "groups": lambda se: setattr(se, "expand", nn.Conv2d(6, 24, 1, groups=2)),
    "activation": lambda se: setattr(se, "act", nn.ReLU()),
    "gate": lambda se: setattr(se, "gate", nn.Hardsigmoid()),
    "weight norm": lambda se: nn.utils.parametrizations.weight_norm(se.reduce),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_modules_run_where_they_are_watched_or_others(change, se, kernel_calls):
    CHANGES[change](se)
    assert torch.equal(se(X), by_modules(se, X)) and kernel_calls == []


def test_small_inputs_and_other_tensors_run_the_modules(se, kernel_calls, monkeypatch):
    class Own(torch.Tensor):
        pass

    se(X.as_subclass(Own))
    monkeypatch.setattr(squeeze_excitation, "_LEAST_BYTES", {"cpu": X.nbytes + 1})
    se(X)
    assert kernel_calls == []


@pytest.mark.parametrize("how", ["compile", "vmap", "grad", "mode", "export"])
def test_watched_operators(how, se, kernel_calls):
    if how == "compile":
        y = torch.compile(se, backend="eager")(X)
    elif how == "vmap":
        se.act = nn.SiLU()
        y = torch.vmap(se)(X[None])[0]
    elif how == "grad":
        _, y = torch.func.grad(lambda x: (lambda y: (y.sum(), y))(se(x)), has_aux=True)(X)
    elif how == "mode":
        with FlopCounterMode(display=False):
            y = se(X)
    else:
        y = torch.export.export(se, (X,)).module()(X)
    torch.testing.assert_close(y, by_modules(se, X))
    assert kernel_calls == []


def test_second_derivatives(se, kernel_calls):
    found = []
    for function in (se, lambda x: by_modules(se, x)):
        (first,) = torch.autograd.grad(function(X).square().sum(), se.reduce.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), se.expand.weight)[0])
    assert len(kernel_calls) == 1
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3 * found[1].abs().max().item())


def test_layers_take_the_kernel(kernel_calls):
    """An MBConv, a ResConv, and an elastic MBConv with its leading channels."""
    torch.manual_seed(0)
    weights = mbconv.MBConv(12, 16, 5, 3)
    layers = {
        (2, 32): (mbconv.MBConv(8, 8, 3, 4), 8),
        (1, 24): (Bottleneck("conv", [(24, 1)], 24, se=True, activation="silu"), 24),
        (3, 36): (elastic.ElasticMBConv(weights, 16, 5, 3, 1), 12),
        (2, 24): (elastic.ElasticMBConv(weights, 8, 3, 3, 1), 8),
    }
    for shape, (layer, channels) in layers.items():
        other = copy.deepcopy(layer)
        ours = gradients(layer, layer, X[:, :channels])
        assert kernel_calls == [shape]
        kernel_calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(squeeze_excitation, "_LEAST_BYTES", {})
            theirs = gradients(other, other, X[:, :channels])
        assert kernel_calls == []
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
