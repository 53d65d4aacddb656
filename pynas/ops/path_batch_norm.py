"""Batch normalisation with statistics per path, the activation and the residual in the same pass."""

from __future__ import annotations

import math

import torch

from pynas.ops import _library as native
from pynas.ops._path_batch_norm import check, fields, path_batch_norm_reference
from pynas.ops.path_batch_norm_backward import gradients_of

__all__ = ["path_batch_norm", "path_batch_norm_reference"]


def path_batch_norm(
    x: torch.Tensor,
    paths: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    *,
    mean: torch.Tensor | None = None,
    var: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.1,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise x `[G*B, C, ...]` by each path's own batch statistics; return y like x, mean and var `[G, C]`.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual); the activation is None, "relu" or "silu". Rows
    g*B .. g*B+B-1 belong to path g, G = `paths`. var is biased (divided by n). weight and bias `[C]` may be None. Given
    mean and var `[G, C]` replace the batch's. mean and var are float32 for half types. Contiguous and channels-last x
    keep their layout. y is written to `out` if given, which may be x or the residual itself.

    running_mean and running_var `[C]`, of the type of mean and var and for one path: running averages, which move to the
    batch's mean and unbiased variance by `momentum`, as those of `torch.nn.BatchNorm2d` do in training.

    Gradients go to x, weight, bias and the residual, through the batch's statistics (Ioffe & Szegedy, ICML 2015), in one
    pass over x and the gradient of y; a second derivative takes plain torch in float64. None goes to a given mean or var.

    Raises `InputError` on shapes, dtypes, devices or buffers that do not fit, on running averages beside given statistics or
    of several paths, and on an `out`, a mean or a var that needs a gradient.
    """
    name = "path_batch_norm"
    native.require_no_grad(name, mean=mean, var=var, running_mean=running_mean, running_var=running_var, out=out)
    averages = (running_mean, running_var, momentum)
    arguments = (x, paths, weight, bias, eps, activation, residual, mean, var, *averages)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, residual)):
        native.require(out is None, name, "no out where a gradient is wanted", "one; call it under torch.no_grad()")
        y, found_mean, found_var = _WithGradient.apply(*arguments)
    elif out is None:
        y, found_mean, found_var = _run(*arguments)
    else:
        y, (found_mean, found_var) = out, _run_into(*arguments, out)
    return (y, found_mean, found_var) if mean is None or var is None else (y, mean, var)


def _check_averages(x, paths, mean, running_mean, running_var, momentum) -> None:
    """Check the running averages, which the kernel moves in place."""
    name = "path_batch_norm"
    if running_mean is None and running_var is None:
        return
    native.require(
        running_mean is not None and running_var is not None,
        name,
        "running_mean and running_var both or neither",
        "one",
    )
    native.require(paths == 1 and mean is None, name, "running averages of one path and of the batch's statistics",
                   f"{paths} paths" if paths != 1 else "given statistics")  # fmt: skip
    native.require(
        x.numel() >= 2 * x.shape[1], name, "more than one value per channel for running averages", list(x.shape)
    )
    native.require(math.isfinite(momentum), name, "a finite momentum", momentum)
    dtype, shape = native.accumulate_dtype(x.dtype), (x.shape[1],)
    for key, tensor in (("running_mean", running_mean), ("running_var", running_var)):
        if tensor.dtype != dtype or tensor.device != x.device or tensor.shape != shape or not tensor.is_contiguous():
            native.refuse(name, f"{key} contiguous, of shape {list(shape)} and {dtype}, on {x.device}",
                          f"{list(tensor.shape)} and {tensor.dtype} on {tensor.device}")  # fmt: skip


def _check_out(x: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor) -> None:
    """Check that the kernel, which writes each element where x has it, may write to `out`."""
    name, layout = "path_batch_norm", native.memory_format(x)
    if out is not x or not x.is_contiguous(memory_format=layout):
        native.require_tensor(name, "out", out, like=x)
        native.require(out.shape == x.shape, name, f"out of x's shape {list(x.shape)}", list(out.shape))
        native.require(
            out.is_contiguous(memory_format=layout), name, f"out in x's layout ({layout})", f"strides {out.stride()}"
        )
    for key, tensor in (("x", x), ("residual", residual)):
        if tensor is not None and not native.same_or_disjoint(out, tensor):
            native.refuse(name, f"out to be {key} itself or not to overlap it", "an overlap")


def _launch(x, paths, weight, bias, eps, activation, residual, mean, var, *averages_and_y):
    """Write y; return the statistics of the batch, or empty tensors if statistics were given."""
    running_mean, running_var, momentum, y = averages_and_y
    dtype, given = native.accumulate_dtype(x.dtype), mean is not None
    statistics = (0,) if given else (paths, x.shape[1])
    found_mean, found_var = x.new_empty(statistics, dtype=dtype), x.new_empty(statistics, dtype=dtype)
    if x.numel() == 0:
        return found_mean.fill_(float("nan")), found_var.fill_(float("nan"))
    mean, var = (mean.to(dtype).contiguous(), var.to(dtype).contiguous()) if given else (found_mean, found_var)
    shared = fields(x, paths, weight, bias, eps, activation, residual, mean, var, given)
    native.call(
        "path_batch_norm", x, **shared, y=y, running_mean=running_mean, running_var=running_var, momentum=momentum
    )
    return found_mean, found_var


def _path_batch_norm(x, paths, weight, bias, eps, activation, residual, mean, var, *averages):
    check(x, paths, weight, bias, eps, activation, residual, mean, var)
    _check_averages(x, paths, mean, *averages)
    y = torch.empty_like(x, memory_format=native.memory_format(x))
    return y, *_launch(x, paths, weight, bias, eps, activation, residual, mean, var, *averages, y)


def _path_batch_norm_into(x, paths, weight, bias, eps, activation, residual, mean, var, *averages_and_out):
    *averages, out = averages_and_out
    check(x, paths, weight, bias, eps, activation, residual, mean, var)
    _check_averages(x, paths, mean, *averages)
    _check_out(x, residual, out)
    return _launch(x, paths, weight, bias, eps, activation, residual, mean, var, *averages, out)


def _fake(x, paths, weight, bias, eps, activation, residual, mean, var, *averages):
    y = torch.empty_like(x, memory_format=native.memory_format(x))
    return y, *_fake_into(x, paths, weight, bias, eps, activation, residual, mean, var, *averages, y)


def _fake_into(x, paths, weight, bias, eps, activation, residual, mean, var, *averages_and_out):
    check(x, paths, weight, bias, eps, activation, residual, mean, var)
    shape = (paths, x.shape[1]) if mean is None else (0,)
    dtype = native.accumulate_dtype(x.dtype)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


_INPUTS = (
    "Tensor x, SymInt paths, Tensor? weight, Tensor? bias, float eps, str? activation, Tensor? residual, "
    "Tensor? mean, Tensor? var, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum"
)
_run = native.define("path_batch_norm", f"({_INPUTS}) -> (Tensor, Tensor, Tensor)", _path_batch_norm, _fake)
_run_into = native.define(
    "path_batch_norm_", f"({_INPUTS}, Tensor(c!) out) -> (Tensor, Tensor)", _path_batch_norm_into, _fake_into
)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, paths, weight, bias, eps, activation, residual, mean, var, *averages):
        y, found_mean, found_var = _run(x, paths, weight, bias, eps, activation, residual, mean, var, *averages)
        ctx.given = mean is not None
        ctx.save_for_backward(x, weight, bias, None if activation is None else residual,
                              *((mean, var) if ctx.given else (found_mean, found_var)))  # fmt: skip
        ctx.settings = paths, eps, activation
        ctx.mark_non_differentiable(found_mean, found_var)
        ctx.set_materialize_grads(False)
        return y, found_mean, found_var

    @staticmethod
    def backward(ctx, y_gradient, *_):
        return gradients_of(ctx, y_gradient)
