"""Distance of each path's outputs to the ensemble of all paths' targets, forward and backward in one pass each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pynas.ops import _library as native


def ensemble_loss(
    online: torch.Tensor, target: torch.Tensor, normalize: bool = True, renormalize: bool = False
) -> torch.Tensor:
    """Loss `[P]` of each path: mean_b ||u_pb - m_b||^2 with m_b = mean_p v_pb, BossNAS eq. 3-4.

    online `[P, B, D]` and target `[P, B, D]` hold the outputs of path p for sample b; u and v are their rows, over
    their norms with `normalize` (at least 1e-12). `renormalize` divides m_b by its norm too, which makes the distance
    2 - 2 cos(u_pb, m_b), the loss of the code released with BossNAS. float32 for half types; nan if the batch is empty.
    The gradient goes to `online`; the target gets none. Not twice differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, and on `renormalize` without `normalize`.
    """
    native.require_tensor("ensemble_loss", "target", target)
    return _EnsembleLoss.apply(online, target.detach(), normalize, renormalize)


def ensemble_loss_reference(
    online: torch.Tensor, target: torch.Tensor, normalize: bool = True, renormalize: bool = False
) -> torch.Tensor:
    """The same in plain torch."""
    target = target.detach()
    if normalize:
        online, target = F.normalize(online, dim=2), F.normalize(target, dim=2)
    mean = target.mean(0)
    if renormalize:
        mean = F.normalize(mean, dim=1)
    return (online - mean).square().sum(2).mean(1)


class _EnsembleLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, online, target, normalize, renormalize):
        loss, mean, inverse, along = torch.ops.pynas.ensemble_loss(online, target, normalize, renormalize)
        ctx.save_for_backward(online, mean, inverse, along)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return torch.ops.pynas.ensemble_loss_backward(gradient, *ctx.saved_tensors), None, None, None


def _check(online: torch.Tensor, target: torch.Tensor, normalize: bool, renormalize: bool) -> None:
    name = "ensemble_loss"
    native.require_tensor(name, "online", online)
    native.require_tensor(name, "target", target, like=online)
    native.require(online.dim() == 3, name, "online of shape [P, B, D]", list(online.shape))
    native.require(
        target.shape == online.shape, name, f"target of the online shape {list(online.shape)}", list(target.shape)
    )
    native.require(normalize or not renormalize, name, "normalize=True where renormalize=True", "normalize=False")


def _outputs(online: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    paths, batch, size = online.shape
    kind = native.accumulate_dtype(online.dtype)
    loss, mean = online.new_empty((paths,), dtype=kind), online.new_empty((batch, size), dtype=kind)
    return loss, mean, online.new_empty((paths, batch), dtype=kind), online.new_empty((paths, batch), dtype=kind)


def _ensemble_loss(online, target, normalize, renormalize):
    _check(online, target, normalize, renormalize)
    online, target, outputs = online.contiguous(), target.contiguous(), _outputs(online)
    if online.shape[0] == 0 or online.shape[1] == 0:
        return outputs[0].fill_(float("nan")), outputs[1].zero_(), *outputs[2:]
    distance = torch.empty_like(outputs[2])
    flags = (bool(normalize), bool(renormalize))
    native.call("ensemble_loss", online, online, target, *outputs, distance, *online.shape, *flags, online.dtype)
    return outputs


def _fake(online, target, normalize, renormalize):
    _check(online, target, normalize, renormalize)
    return _outputs(online)


def _backward_check(gradient, online, mean, inverse, along) -> None:
    name = "ensemble_loss_backward"
    native.require_tensor(name, "online", online)
    native.require(online.dim() == 3, name, "online of shape [P, B, D]", list(online.shape))
    paths, batch, size = online.shape
    kind = native.accumulate_dtype(online.dtype)
    expected = {"gradient": (paths,), "mean": (batch, size), "inverse": (paths, batch), "along": (paths, batch)}
    for argument, tensor in zip(expected, (gradient, mean, inverse, along)):
        native.require(tensor.dtype == kind, name, f"{argument} of dtype {kind}", tensor.dtype)
        native.require(tensor.device == online.device, name, f"{argument} on {online.device}", tensor.device)
        shape = expected[argument]
        native.require(tensor.shape == shape, name, f"{argument} of shape {list(shape)}", list(tensor.shape))


def _ensemble_loss_backward(gradient, online, mean, inverse, along):
    _backward_check(gradient, online, mean, inverse, along)
    inputs = [tensor.contiguous() for tensor in (gradient, online, mean, inverse, along)]
    result = torch.empty_like(inputs[1])
    if result.numel() > 0:
        native.call("ensemble_loss_backward", online, *inputs, result, *online.shape, online.dtype)
    return result


def _backward_fake(gradient, online, mean, inverse, along):
    _backward_check(gradient, online, mean, inverse, along)
    return online.new_empty(online.shape)


native.define(
    "ensemble_loss",
    "(Tensor online, Tensor target, bool normalize, bool renormalize) -> (Tensor, Tensor, Tensor, Tensor)",
    _ensemble_loss,
    _fake,
)
native.define(
    "ensemble_loss_backward",
    "(Tensor gradient, Tensor online, Tensor mean, Tensor inverse, Tensor along) -> Tensor",
    _ensemble_loss_backward,
    _backward_fake,
)
