"""Distance of each path's outputs to the ensemble of all paths' targets; one pass forward and one backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pynas.ops import _library as native


def ensemble_loss(
    online: torch.Tensor, target: torch.Tensor, normalize: bool = True, renormalize: bool = False
) -> torch.Tensor:
    """Return the loss `[P]` of each path: mean_b ||u_pb - m_b||^2 with m_b = mean_p v_pb, BossNAS eq. 3-4.

    online `[P, B, D]` and target `[P, B, D]` hold the outputs of path p for sample b; u and v are their rows. `normalize`
    divides each row by its norm (at least 1e-12). `renormalize` divides m_b by its norm too, which makes the distance
    2 - 2 cos(u_pb, m_b), the loss of the code released with BossNAS. The loss is float32 for half types, and nan if the
    batch is empty. The gradient goes to `online`, none to the target. Not twice differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, and on `renormalize` without `normalize`.
    """
    native.require_tensor("ensemble_loss", "target", target)
    return _EnsembleLoss.apply(online, target.detach(), normalize, renormalize)


def ensemble_loss_reference(
    online: torch.Tensor, target: torch.Tensor, normalize: bool = True, renormalize: bool = False
) -> torch.Tensor:
    """Return the loss of `ensemble_loss`, in plain torch."""
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
        loss, mean, inverse, along = _forward(online, target, normalize, renormalize)
        ctx.save_for_backward(online, mean, inverse, along)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return _backward(gradient, *ctx.saved_tensors), None, None, None


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
    """Return loss, mean, inverse and along, not filled."""
    paths, batch, size = online.shape
    dtype = native.accumulate_dtype(online.dtype)
    loss, mean = online.new_empty((paths,), dtype=dtype), online.new_empty((batch, size), dtype=dtype)
    return loss, mean, online.new_empty((paths, batch), dtype=dtype), online.new_empty((paths, batch), dtype=dtype)


def _ensemble_loss(online, target, normalize, renormalize):
    _check(online, target, normalize, renormalize)
    online, target = online.contiguous(), target.contiguous()
    (paths, batch, size), (loss, mean, inverse, along) = online.shape, _outputs(online)
    if paths == 0 or batch == 0:
        return loss.fill_(float("nan")), mean.zero_(), inverse, along
    native.call(
        "ensemble_loss",
        online,
        online=online,
        target=target,
        loss=loss,
        mean=mean,
        inverse=inverse,
        along=along,
        distance=torch.empty_like(inverse),
        paths=paths,
        batch=batch,
        size=size,
        normalize=bool(normalize),
        renormalize=bool(renormalize),
        dtype=online.dtype,
    )
    return loss, mean, inverse, along


def _fake(online, target, normalize, renormalize):
    _check(online, target, normalize, renormalize)
    return _outputs(online)


def _backward_check(gradient, online, mean, inverse, along) -> None:
    name = "ensemble_loss_backward"
    native.require_tensor(name, "online", online)
    native.require(online.dim() == 3, name, "online of shape [P, B, D]", list(online.shape))
    paths, batch, size = online.shape
    dtype = native.accumulate_dtype(online.dtype)
    expected = {"gradient": (paths,), "mean": (batch, size), "inverse": (paths, batch), "along": (paths, batch)}
    for argument, tensor in zip(expected, (gradient, mean, inverse, along)):
        native.require(tensor.dtype == dtype, name, f"{argument} of dtype {dtype}", tensor.dtype)
        native.require(tensor.device == online.device, name, f"{argument} on {online.device}", tensor.device)
        shape = expected[argument]
        native.require(tensor.shape == shape, name, f"{argument} of shape {list(shape)}", list(tensor.shape))


def _ensemble_loss_backward(gradient, online, mean, inverse, along):
    _backward_check(gradient, online, mean, inverse, along)
    online = online.contiguous()
    online_gradient, (paths, batch, size) = torch.empty_like(online), online.shape
    if online.numel() > 0:
        native.call(
            "ensemble_loss_backward",
            online,
            gradient=gradient.contiguous(),
            online=online,
            mean=mean.contiguous(),
            inverse=inverse.contiguous(),
            along=along.contiguous(),
            online_gradient=online_gradient,
            paths=paths,
            batch=batch,
            size=size,
            dtype=online.dtype,
        )
    return online_gradient


def _backward_fake(gradient, online, mean, inverse, along):
    _backward_check(gradient, online, mean, inverse, along)
    return online.new_empty(online.shape)


_forward = native.define(
    "ensemble_loss",
    "(Tensor online, Tensor target, bool normalize, bool renormalize) -> (Tensor, Tensor, Tensor, Tensor)",
    _ensemble_loss,
    _fake,
)
_backward = native.define(
    "ensemble_loss_backward",
    "(Tensor gradient, Tensor online, Tensor mean, Tensor inverse, Tensor along) -> Tensor",
    _ensemble_loss_backward,
    _backward_fake,
)
