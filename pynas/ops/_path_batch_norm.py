"""Checks, kernels' arguments and plain torch, which both passes of `path_batch_norm` share."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pynas.ops import _library as native

ACTIVATIONS = (None, "relu", "silu")

# Elements of a channel in one partial sum on a GPU: contiguous, channels-last (many channels at once).
_CUDA_CHUNKS = (16384, 512)
# Channels-last on the CPU: elements of all channels in one partial sum, of a channel at least.
_CPU_CHUNK, _CPU_LEAST = 32768, 256


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


def check(x, paths, weight, bias, eps, activation, residual, mean, var, name: str = "path_batch_norm") -> None:
    """Check all that the kernels rely on; messages are made where one is needed, as they take longer than the checks."""
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


def fields(x, paths, weight, bias, eps, activation, residual, mean, var, given: bool) -> dict[str, object]:
    """Return the arguments that the kernels forward and backward share; mean and var `[G, C]` of the accumulate type."""
    layout, dtype = native.memory_format(x), native.accumulate_dtype(x.dtype)
    batch, channels = x.shape[0] // paths, x.shape[1]
    size = x.numel() // (x.shape[0] * channels)
    channels_last = layout != torch.contiguous_format or size == 1
    chunk = _chunk(native.backend(x), channels, channels_last)
    sums = 2 * paths * channels * -(-batch * size // chunk)
    return {
        "x": x.contiguous(memory_format=layout),
        "residual": None if residual is None else residual.contiguous(memory_format=layout),
        "weight": None if weight is None else weight.to(dtype).contiguous(),
        "bias": None if bias is None else bias.to(dtype).contiguous(),
        "mean": mean,
        "var": var,
        "partial": x.new_empty(sums + paths * channels // 2 + 1, dtype=torch.float64),
        "paths": paths,
        "batch": batch,
        "channels": channels,
        "size": size,
        "chunk": chunk,
        "eps": eps,
        "channels_last": channels_last,
        "statistics_given": given,
        "activation": ACTIVATIONS.index(activation),
        "dtype": x.dtype,
    }


def _chunk(backend: str, channels: int, channels_last: bool) -> int:
    """Return the elements of a channel in one partial sum; the CPU sums a contiguous channel as a whole."""
    if backend == "cuda":
        return _CUDA_CHUNKS[channels_last]
    return max(_CPU_LEAST, _CPU_CHUNK // channels) if channels_last else 1 << 62
