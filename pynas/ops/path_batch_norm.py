"""Batch normalisation with statistics per path, the activation and the residual in the same pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pynas.ops import _library as native

ACTIVATIONS = (None, "relu", "silu")

# Elements of a channel in one partial sum: contiguous, channels-last (many channels at once). The CPU sums a contiguous
# channel as a whole.
_CHUNKS = {"cpu": (1 << 62, 256), "cuda": (16384, 512)}


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
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise x `[G*B, C, ...]` by each path's own batch statistics; return y like x, mean and var `[G, C]`.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual); the activation is None, "relu" or "silu". Rows
    g*B .. g*B+B-1 belong to path g, G = `paths`. var is biased (divided by n). weight and bias `[C]` may be None. Given
    mean and var `[G, C]` replace the batch's. mean and var are float32 for half types. Contiguous and channels-last x
    keep their layout. y is written to `out` if given, which may be x or the residual itself. Not differentiable.

    Raises `InputError` on shapes, dtypes, devices or buffers that do not fit, and on inputs that need a gradient.
    """
    name = "path_batch_norm"
    native.require_no_grad(name, x=x, weight=weight, bias=bias, residual=residual, mean=mean, var=var, out=out)
    arguments = (x, paths, weight, bias, eps, activation, residual, mean, var)
    if out is None:
        y, found_mean, found_var = _run(*arguments)
    else:
        y, (found_mean, found_var) = out, _run_into(*arguments, out)
    return (y, found_mean, found_var) if mean is None or var is None else (y, mean, var)


def path_batch_norm_reference(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the y, mean and var of `path_batch_norm`, in plain torch and float64."""
    grouped = (
        x.double().unflatten(0, (paths, -1)).flatten(3) if x.dim() > 2 else x.double().unflatten(0, (paths, -1, 1))
    )
    if x.dim() == 2:
        grouped = grouped.transpose(2, 3)
    mean = grouped.mean((1, 3)) if mean is None else mean.double()
    var = (grouped - mean[:, None, :, None]).square().mean((1, 3)) if var is None else var.double()
    y = (grouped - mean[:, None, :, None]) / (var + eps).sqrt()[:, None, :, None]
    if weight is not None:
        y = y * weight.double()[:, None]
    if bias is not None:
        y = y + bias.double()[:, None]
    y = y.reshape(x.shape)
    if residual is not None:
        y = y + residual.double()
    return {None: lambda v: v, "relu": F.relu, "silu": F.silu}[activation](y), mean, var


def _check(x, paths, weight, bias, eps, activation, residual, mean, var) -> None:
    """Check all that the kernel relies on; messages are made where one is needed, as they take longer than the checks."""
    name = "path_batch_norm"
    native.require_tensor(name, "x", x)
    if x.dim() < 2 or x.shape[1] == 0:
        native.refuse(name, "x of shape [G*B, C, ...] with C > 0", list(x.shape))
    native.require(paths > 0, name, "paths > 0", paths)
    if x.shape[0] % paths != 0:
        native.refuse(name, f"x to have a multiple of {paths} rows (paths)", x.shape[0])
    native.require(0 <= eps < float("inf"), name, "eps to be finite and not negative", eps)
    if activation not in ACTIVATIONS:
        native.refuse(name, 'activation None, "relu" or "silu"', repr(activation))
    native.require((mean is None) == (var is None), name, "mean and var both or neither", "one")
    channels = x.shape[1]
    for key, tensor, shape in (
        ("weight", weight, (channels,)),
        ("bias", bias, (channels,)),
        ("mean", mean, (paths, channels)),
        ("var", var, (paths, channels)),
    ):
        if tensor is not None:
            native.require_tensor(name, key, tensor)
            if tensor.device != x.device:
                native.refuse(name, f"{key} on {x.device}", tensor.device)
            if tensor.shape != shape:
                native.refuse(name, f"{key} of shape {list(shape)}", list(tensor.shape))
    if residual is not None:
        native.require_tensor(name, "residual", residual, like=x)
        if residual.shape != x.shape:
            native.refuse(name, f"residual of x's shape {list(x.shape)}", list(residual.shape))


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


def _launch(x, paths, weight, bias, eps, activation, residual, mean, var, y) -> tuple[torch.Tensor, torch.Tensor]:
    """Write y; return the statistics of the batch, or empty tensors if statistics were given."""
    layout, dtype = native.memory_format(x), native.accumulate_dtype(x.dtype)
    given = mean is not None
    statistics = (0,) if given else (paths, x.shape[1])
    found_mean, found_var = x.new_empty(statistics, dtype=dtype), x.new_empty(statistics, dtype=dtype)
    if x.numel() == 0:
        return found_mean.fill_(float("nan")), found_var.fill_(float("nan"))
    x = x.contiguous(memory_format=layout)
    residual = None if residual is None else residual.contiguous(memory_format=layout)
    weight, bias, mean, var = (
        None if tensor is None else tensor.to(dtype).contiguous() for tensor in (weight, bias, mean, var)
    )
    batch, channels = x.shape[0] // paths, x.shape[1]
    size = x.numel() // (x.shape[0] * channels)
    channels_last = layout != torch.contiguous_format or size == 1
    chunk = _CHUNKS[native.backend(x)][channels_last]
    sums = 2 * paths * channels * -(-batch * size // chunk)
    native.call(
        "path_batch_norm",
        x,
        x=x,
        residual=residual,
        weight=weight,
        bias=bias,
        mean=mean if given else found_mean,
        var=var if given else found_var,
        y=y,
        partial=x.new_empty(sums + paths * channels // 2 + 1, dtype=torch.float64),
        paths=paths,
        batch=batch,
        channels=channels,
        size=size,
        chunk=chunk,
        eps=eps,
        channels_last=channels_last,
        statistics_given=given,
        activation=ACTIVATIONS.index(activation),
        dtype=x.dtype,
    )
    return found_mean, found_var


def _path_batch_norm(x, paths, weight, bias, eps, activation, residual, mean, var):
    _check(x, paths, weight, bias, eps, activation, residual, mean, var)
    y = torch.empty_like(x, memory_format=native.memory_format(x))
    return y, *_launch(x, paths, weight, bias, eps, activation, residual, mean, var, y)


def _path_batch_norm_into(x, paths, weight, bias, eps, activation, residual, mean, var, out):
    _check(x, paths, weight, bias, eps, activation, residual, mean, var)
    _check_out(x, residual, out)
    return _launch(x, paths, weight, bias, eps, activation, residual, mean, var, out)


def _fake(x, paths, weight, bias, eps, activation, residual, mean, var):
    _check(x, paths, weight, bias, eps, activation, residual, mean, var)
    y = torch.empty_like(x, memory_format=native.memory_format(x))
    return y, *_fake_into(x, paths, weight, bias, eps, activation, residual, mean, var, y)


def _fake_into(x, paths, weight, bias, eps, activation, residual, mean, var, out):
    shape = (paths, x.shape[1]) if mean is None else (0,)
    dtype = native.accumulate_dtype(x.dtype)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


_INPUTS = (
    "Tensor x, SymInt paths, Tensor? weight, Tensor? bias, float eps, str? activation, Tensor? residual, "
    "Tensor? mean, Tensor? var"
)
_run = native.define("path_batch_norm", f"({_INPUTS}) -> (Tensor, Tensor, Tensor)", _path_batch_norm, _fake)
_run_into = native.define(
    "path_batch_norm_", f"({_INPUTS}, Tensor(a!) out) -> (Tensor, Tensor)", _path_batch_norm_into, _fake_into
)
