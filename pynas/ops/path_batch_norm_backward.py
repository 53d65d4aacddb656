"""The gradients of `path_batch_norm`."""

from __future__ import annotations

import torch

from pynas.ops import _library as native
from pynas.ops._path_batch_norm import check, fields, path_batch_norm_reference


def _backward_check(y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var) -> None:
    name = "path_batch_norm_backward"
    check(x, paths, weight, bias, eps, activation, residual, mean, var, name)
    native.require_tensor(name, "y_gradient", y_gradient, like=x)
    native.require(
        y_gradient.shape == x.shape, name, f"y_gradient of x's shape {list(x.shape)}", list(y_gradient.shape)
    )


def _gradients(y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var, given):
    """Return the gradients of x, of weight and bias `[G, C]`, and of the residual, empty without one or an activation."""
    _backward_check(y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var)
    residual = None if activation is None else residual  # whose gradient is then y's
    outputs = x_gradient, weight_gradient, bias_gradient, residual_gradient = _gradients_like(x, paths, residual)
    if x.numel() == 0:
        return x_gradient, weight_gradient.zero_(), bias_gradient.zero_(), residual_gradient
    mean, var = (tensor.to(weight_gradient.dtype).contiguous() for tensor in (mean, var))
    native.call(
        "path_batch_norm_backward",
        x,
        **fields(x, paths, weight, bias, eps, activation, residual, mean, var, given),
        y_gradient=y_gradient.contiguous(memory_format=native.memory_format(x)),
        x_gradient=x_gradient,
        residual_gradient=None if residual is None else residual_gradient,
        weight_gradient=weight_gradient,
        bias_gradient=bias_gradient,
    )
    return outputs


def _gradients_like(x, paths, residual):
    layout, shape, dtype = native.memory_format(x), (paths, x.shape[1]), native.accumulate_dtype(x.dtype)
    none = x.new_empty(0) if residual is None else torch.empty_like(x, memory_format=layout)
    return (
        torch.empty_like(x, memory_format=layout),
        x.new_empty(shape, dtype=dtype),
        x.new_empty(shape, dtype=dtype),
        none,
    )


def _backward_fake(y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var, given):
    _backward_check(y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var)
    return _gradients_like(x, paths, None if activation is None else residual)


_run_backward = native.define(
    "path_batch_norm_backward",
    "(Tensor y_gradient, Tensor x, SymInt paths, Tensor? weight, Tensor? bias, float eps, str? activation, "
    "Tensor? residual, Tensor mean, Tensor var, bool statistics_given) -> (Tensor, Tensor, Tensor, Tensor)",
    _gradients,
    _backward_fake,
)


def gradients_of(ctx, y_gradient):
    """Return the gradients of the inputs of `path_batch_norm`, in their order, from what its pass forward kept in `ctx`."""
    x, weight, bias, residual, mean, var = ctx.saved_tensors
    (paths, eps, activation), needs = ctx.settings, ctx.needs_input_grad
    gradients: list[torch.Tensor | None] = [None] * len(needs)
    if y_gradient is None:
        return tuple(gradients)
    if torch.is_grad_enabled():  # for a second derivative
        given = {"mean": mean, "var": var} if ctx.given else {}
        y = path_batch_norm_reference(x, paths, weight, bias, eps, activation, residual, **given)[0]
        inputs = {
            i: tensor
            for i, tensor in {0: x, 2: weight, 3: bias, 6: residual}.items()
            if needs[i] and tensor is not None
        }
        found = (
            torch.autograd.grad(y.to(x.dtype), list(inputs.values()), y_gradient, create_graph=True) if inputs else ()
        )
        for i, gradient in zip(inputs, found):
            gradients[i] = gradient
    else:
        gradients[0], *parameters, gradients[6] = _run_backward(
            y_gradient, x, paths, weight, bias, eps, activation, residual, mean, var, ctx.given
        )
        for i, tensor, each in zip((2, 3), (weight, bias), parameters):
            if needs[i]:
                gradients[i] = (each[0] if paths == 1 else each.sum(0)).to(tensor.dtype)
    if activation is None:
        gradients[6] = y_gradient
    return tuple(gradient if need else None for gradient, need in zip(gradients, needs))
