"""Batch norm of layers in training: one kernel, with the results of torch's modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pynas
from pynas.nn import batch_norm
from pynas.nn.batch_norm import NormSequential, batch_norm_act, conv_bn
from pynas.nn.convolution import convolve

X = torch.randn(8, 16, 20, 20, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def kernel_calls(monkeypatch) -> list[str | None]:
    """Activations of the calls of the kernel."""
    calls, kernel = [], batch_norm.path_batch_norm

    def counted(*args, **kwargs):
        calls.append(args[5])
        return kernel(*args, **kwargs)

    monkeypatch.setattr(batch_norm, "path_batch_norm", counted)
    monkeypatch.setattr(batch_norm, "_LEAST_BYTES", {"cpu": 0})
    return calls


def modules(norm: nn.Module, x, act=None, residual=None):
    y = norm(x)
    y = y if residual is None else y + residual
    return y if act is None else act(y)


@pytest.mark.parametrize("residual", [None, X.flip(0)], ids=["alone", "residual"])
@pytest.mark.parametrize(("act", "name"), [(None, None), (nn.ReLU(), "relu"), (nn.SiLU(inplace=True), "silu"),
                                           (torch.nn.functional.relu, "relu")])  # fmt: skip
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_as_the_modules(options, act, name, residual, kernel_calls):
    torch.manual_seed(0)
    ours = nn.BatchNorm2d(16, **options)
    theirs, gradients = copy.deepcopy(ours), []
    for norm, function in ((ours, batch_norm_act), (theirs, modules)):
        for step in range(3):
            x = (X + step).requires_grad_()
            y = function(norm, x, act, residual)
            y.backward(X.sin())
        gradients.append([y.detach(), x.grad, *(p.grad for p in norm.parameters())])
    assert kernel_calls == [name] * 3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def one_by_one(norm, x, act, residual, paths):
    residuals = [None] * paths if residual is None else residual.chunk(paths)
    return torch.cat([modules(norm, part, act, added) for part, added in zip(x.chunk(paths), residuals)])


@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "modules"])
@pytest.mark.parametrize("residual", [None, X.flip(0)], ids=["alone", "residual"])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_paths_are_normalised_as_one_after_the_other(options, residual, kernel, eval_mode, kernel_calls, monkeypatch):
    """The statistics of each path, and running averages that move once for each in turn."""
    if not kernel:
        monkeypatch.setattr(batch_norm, "_LEAST_BYTES", {})
    ours = nn.BatchNorm2d(16, **options).train(not eval_mode)
    theirs, found = copy.deepcopy(ours), []
    scaled = X * torch.arange(1.0, 9.0)[:, None, None, None]  # other statistics in each path
    for norm, function in ((ours, batch_norm_act), (theirs, one_by_one)):
        for _ in range(2):
            x = scaled.clone().requires_grad_()
            y = function(norm, x, nn.SiLU(), residual, paths=4)
            y.backward(X.sin())
        found.append([y.detach(), x.grad, *(p.grad for p in norm.parameters())])
    assert len(kernel_calls) == (2 if kernel and not eval_mode else 0)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


class OwnNorm(nn.BatchNorm2d):
    pass


def watched(norm, act):
    norm.register_forward_hook(lambda *_: None)


def hooked_act(norm, act):
    act.register_forward_pre_hook(lambda *_: None)


def own_forward(norm, act):
    norm.forward = type(norm).forward.__get__(norm)


@pytest.mark.parametrize("change", [watched, hooked_act, own_forward, lambda norm, act: norm.eval(), lambda norm, act: norm.half(),
                                    lambda norm, act: act.__setattr__("__class__", nn.GELU)])  # fmt: skip
def test_the_modules_run_where_something_watches_them(change, kernel_calls):
    norm, act = nn.BatchNorm2d(16), nn.ReLU()
    change(norm, act)
    x = X.half() if norm.weight.dtype == torch.half else X
    if isinstance(act, nn.GELU):
        act.approximate = "none"
    expected = act(copy.deepcopy(norm)(x))
    assert torch.equal(batch_norm_act(norm, x, act), expected) and kernel_calls == []


def test_classes_of_others_and_small_inputs_run_their_own(monkeypatch, kernel_calls):
    batch_norm_act(OwnNorm(16), X)
    batch_norm_act(nn.SyncBatchNorm(16).eval(), X)
    assert kernel_calls == []
    monkeypatch.undo()
    with pytest.raises(ValueError, match="more than 1 value"):  # torch's own error
        batch_norm_act(nn.BatchNorm2d(16), torch.zeros(1, 16, 1, 1))


def test_another_width_is_torchs_error():
    with pytest.raises(RuntimeError):
        batch_norm_act(nn.BatchNorm2d(18), X)


def test_other_axes_are_torchs_error(kernel_calls):
    with pytest.raises(ValueError, match="expected 4D"):
        batch_norm_act(nn.BatchNorm2d(16), X.flatten(2))


def test_a_residual_of_another_type_is_added_by_torch(kernel_calls):
    y = batch_norm_act(nn.BatchNorm2d(16), X, None, X.double())
    assert y.dtype == torch.float64 and kernel_calls == []


@pytest.mark.parametrize("how", ["compile", "vmap", "mode"])
def test_watched_operators(how, kernel_calls):
    norm = nn.BatchNorm2d(16, track_running_stats=False)
    function = lambda x: batch_norm_act(norm, x, nn.functional.silu)  # noqa: E731
    if how == "compile":
        y = torch.compile(function, backend="eager")(X)
    elif how == "vmap":
        y = torch.vmap(function)(X[None])[0]
    else:
        with FlopCounterMode(display=False):
            y = function(X)
    torch.testing.assert_close(y, nn.functional.silu(norm(X)))
    assert kernel_calls == []


def test_a_sequence_runs_its_norms_with_what_follows(kernel_calls):
    parts = [nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Sigmoid()]
    ours, theirs = NormSequential(*copy.deepcopy(parts)), nn.Sequential(*parts)
    torch.testing.assert_close(ours(X), theirs(X))
    assert kernel_calls == ["relu", None]
    assert torch.equal(ours.eval()(X), ours(X)) and len(kernel_calls) == 2


def test_a_convolution_of_one_image_and_of_float64_under_autocast():
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
    image = torch.randn(8, 8, 9)
    assert torch.equal(convolve(conv, image), conv(image))
    conv, images = (
        conv.double(),
        torch.randn(2, 8, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(conv, images).dtype == conv(images).dtype == torch.float64


def test_second_derivatives_pass():
    """As zero-cost proxies take them."""
    layer = conv_bn(16, 8)
    (first,) = torch.autograd.grad(layer(X).square().sum(), layer.conv.weight, create_graph=True)
    first.square().sum().backward()
    assert layer.bn.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_of_100_steps_as_torch(dtype, monkeypatch):
    """Losses of a hundred steps with the kernel and with torch's batch norm; they drift apart by rounding alone."""
    losses = []
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(16) % 4
    for least in (0, 2**62):
        monkeypatch.setattr(batch_norm, "_LEAST_BYTES", {"cpu": least})
        torch.manual_seed(0)
        net = nn.Sequential(conv_bn(3, 16, 3, 2), pynas.nn.MBConv(16, 16, 3, 3), pynas.nn.MBConv(16, 16, 5, 6),
                            conv_bn(16, 24, activation="relu"), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(24, 4))  # fmt: skip
        net = net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9)
        losses.append([])
        for _ in range(100):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = nn.functional.cross_entropy(net(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    ours, torchs = torch.tensor(losses, dtype=torch.float64)
    assert ours[-1] < 0.7 * ours[0]  # it learns
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance)
