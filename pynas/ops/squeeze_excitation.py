"""Squeeze-excitation in one pass over memory on the CPU, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pynas.ops import _library as native


def squeeze_excitation(
    x: torch.Tensor,
    reduce_weight: torch.Tensor,
    reduce_bias: torch.Tensor,
    expand_weight: torch.Tensor,
    expand_bias: torch.Tensor,
) -> torch.Tensor:
    """Return y = x * sigmoid(expand(silu(reduce(mean of x over space)))), like x `[B, C, H, W]`.

    Hu et al., CVPR 2018, with EfficientNet's SiLU. The linear maps have weights `[R, C]` and `[C, R]`, or those of 1x1
    convolutions `[R, C, 1, 1]` and `[C, R, 1, 1]`, and biases `[R]` and `[C]`. Sums and gates are float64 for float64, else
    float32. Contiguous and channels-last x keep their layout.

    On the CPU one kernel does all of it, and another one all gradients, sample by sample, so that a sample is read from memory
    once; a second derivative, and a tensor on a CUDA device, take plain torch.

    Raises `InputError` on shapes, dtypes or devices that do not fit.
    """
    inputs = (x, reduce_weight, reduce_bias, expand_weight, expand_bias)
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
        _check_forward(*inputs)
        return squeeze_excitation_reference(*inputs)
    if torch.is_grad_enabled() and any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in inputs):
        return _WithGradient.apply(*inputs)
    return _run(*inputs)[0]


def squeeze_excitation_reference(x, reduce_weight, reduce_bias, expand_weight, expand_bias) -> torch.Tensor:
    """Return the y of `squeeze_excitation`, in plain torch."""
    dtype, (channels, reduced) = native.accumulate_dtype(x.dtype), expand_weight.shape[:2]
    reduce_weight, expand_weight = reduce_weight.reshape(reduced, channels), expand_weight.reshape(channels, reduced)
    squeezed = F.silu(F.linear(x.mean((2, 3), dtype=dtype), reduce_weight.to(dtype), reduce_bias.to(dtype)))
    gate = F.linear(squeezed, expand_weight.to(dtype), expand_bias.to(dtype)).sigmoid()
    return (x * gate[:, :, None, None]).to(x.dtype)


def _check(name: str, x, reduce_weight, expand_weight, **others: tuple[torch.Tensor, str]) -> None:
    """Check all that the kernels rely on. others: tensors with their shapes in letters."""
    native.require_tensor(name, "x", x)
    if x.dim() != 4:
        native.refuse(name, "x of shape [B, C, H, W]", list(x.shape))
    native.require_tensor(name, "reduce_weight", reduce_weight)
    if reduce_weight.dim() not in (2, 4):
        native.refuse(name, "reduce_weight of shape [R, C] or [R, C, 1, 1]", list(reduce_weight.shape))
    sizes = {"B": x.shape[0], "C": x.shape[1], "R": reduce_weight.shape[0]}
    weights = {"reduce_weight": (reduce_weight, "RC"), "expand_weight": (expand_weight, "CR")}
    for key, (tensor, letters) in {**weights, **others}.items():
        native.require_tensor(name, key, tensor)
        if tensor.device != x.device:
            native.refuse(name, f"{key} on {x.device}", tensor.device)
        shape = tuple(sizes[letter] for letter in letters)
        if tensor.shape != shape and (key not in weights or tensor.shape != (*shape, 1, 1)):
            native.refuse(name, f"{key} of shape {list(shape)}", list(tensor.shape))


def _check_forward(x, reduce_weight, reduce_bias, expand_weight, expand_bias) -> None:
    biases = {"reduce_bias": (reduce_bias, "R"), "expand_bias": (expand_bias, "C")}
    _check("squeeze_excitation", x, reduce_weight, expand_weight, **biases)


def _fields(x, reduce_weight, expand_weight, kept) -> dict[str, object]:
    """Return the arguments that the kernels share."""
    layout, dtype, (reduced, channels) = native.memory_format(x), kept.dtype, reduce_weight.shape[:2]
    size = x.shape[2] * x.shape[3]
    return {
        "x": x.contiguous(memory_format=layout),
        "reduce_weight": reduce_weight.to(dtype).contiguous(),
        "expand_weight": expand_weight.reshape(channels, reduced).to(dtype).t().contiguous(),
        "kept": kept,
        "batch": x.shape[0],
        "channels": channels,
        "reduced": reduced,
        "size": size,
        "channels_last": layout == torch.channels_last or size == 1,
        "dtype": x.dtype,
        "threads": native.threads(),
    }


def _like(x, reduced: int):
    """Return y and what the pass backward reads (mean and gate `[B, C]`, hidden and squeezed `[B, R]`, in one), both unset."""
    y = torch.empty_like(x, memory_format=native.memory_format(x))
    return y, x.new_empty(2 * x.shape[0] * (x.shape[1] + reduced), dtype=native.accumulate_dtype(x.dtype))


def _squeeze_excitation(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    _check_forward(x, reduce_weight, reduce_bias, expand_weight, expand_bias)
    native.require(x.device.type == "cpu", "squeeze_excitation", "x on the CPU", x.device)
    y, kept = _like(x, reduce_weight.shape[0])
    native.run(
        "squeeze_excitation",
        **_fields(x, reduce_weight, expand_weight, kept),
        reduce_bias=reduce_bias.to(kept.dtype).contiguous(),
        expand_bias=expand_bias.to(kept.dtype).contiguous(),
        y=y,
    )
    return y, kept


def _fake(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    _check_forward(x, reduce_weight, reduce_bias, expand_weight, expand_bias)
    return _like(x, reduce_weight.shape[0])


_run = native.define(
    "squeeze_excitation",
    "(Tensor x, Tensor reduce_weight, Tensor reduce_bias, Tensor expand_weight, Tensor expand_bias) "
    "-> (Tensor, Tensor)",
    _squeeze_excitation,
    _fake,
)


def _check_backward(y_gradient, x, reduce_weight, expand_weight, kept) -> None:
    name, dtype = "squeeze_excitation_backward", native.accumulate_dtype(x.dtype)
    _check(name, x, reduce_weight, expand_weight)
    native.require_tensor(name, "y_gradient", y_gradient, like=x)
    if y_gradient.shape != x.shape:
        native.refuse(name, f"y_gradient of x's shape {list(x.shape)}", list(y_gradient.shape))
    shape = (2 * x.shape[0] * (x.shape[1] + reduce_weight.shape[0]),)
    if kept.shape != shape or kept.dtype != dtype or kept.device != x.device or not kept.is_contiguous():
        native.refuse(name, f"kept contiguous, of shape {list(shape)} and {dtype}, on {x.device}",
                      f"{list(kept.shape)} and {kept.dtype} on {kept.device}")  # fmt: skip


def _gradients_like(x, reduced: int):
    """Return the gradients of x, reduce_weight `[R, C]`, reduce_bias, expand_weight `[C, R]` and expand_bias, unset."""
    dtype, channels = native.accumulate_dtype(x.dtype), x.shape[1]
    reduce_weight, expand_weight = (x.new_empty((reduced, channels), dtype=dtype) for _ in range(2))
    reduce_bias, expand_bias = (x.new_empty(size, dtype=dtype) for size in (reduced, channels))
    x_gradient = torch.empty_like(x, memory_format=native.memory_format(x))
    return x_gradient, reduce_weight, reduce_bias, expand_weight.t(), expand_bias


def _backward(y_gradient, x, reduce_weight, expand_weight, kept):
    _check_backward(y_gradient, x, reduce_weight, expand_weight, kept)
    native.require(x.device.type == "cpu", "squeeze_excitation_backward", "x on the CPU", x.device)
    outputs = _gradients_like(x, reduce_weight.shape[0])
    native.run(
        "squeeze_excitation_backward",
        **_fields(x, reduce_weight, expand_weight, kept),
        y_gradient=y_gradient.contiguous(memory_format=native.memory_format(x)),
        x_gradient=outputs[0],
        kept_gradient=torch.empty_like(kept),
        reduce_weight_gradient=outputs[1],
        reduce_bias_gradient=outputs[2],
        expand_weight_gradient=outputs[3],
        expand_bias_gradient=outputs[4],
    )
    return outputs


def _backward_fake(y_gradient, x, reduce_weight, expand_weight, kept):
    _check_backward(y_gradient, x, reduce_weight, expand_weight, kept)
    return _gradients_like(x, reduce_weight.shape[0])


_run_backward = native.define(
    "squeeze_excitation_backward",
    "(Tensor y_gradient, Tensor x, Tensor reduce_weight, Tensor expand_weight, Tensor kept) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        y, kept = _run(*inputs)
        ctx.save_for_backward(*inputs, kept)
        return y

    @staticmethod
    def backward(ctx, y_gradient):
        *inputs, kept = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for a second derivative
            wanted = [tensor for tensor, need in zip(inputs, needs) if need]
            y = squeeze_excitation_reference(*inputs)
            found = iter(torch.autograd.grad(y, wanted, y_gradient, create_graph=True))
            return tuple(next(found) if need else None for need in needs)
        x, reduce_weight, _, expand_weight, _ = inputs
        gradients = _run_backward(y_gradient, x, reduce_weight, expand_weight, kept)
        return tuple(
            gradient.reshape(tensor.shape).to(tensor.dtype) if need else None
            for gradient, tensor, need in zip(gradients, inputs, needs)
        )
