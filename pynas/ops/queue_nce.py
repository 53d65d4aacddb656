"""Contrastive loss against a queue of earlier keys, as a streaming softmax: the logits `[B, K]` never exist."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pynas.ops import _library as native

# Logits, and numbers of converted keys, that exist at a time (but at least 256 keys): 8 MB each, enough that starting
# the threads or kernels for a chunk costs little.
_CHUNK = 2**21


def queue_nce(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Loss `[B]`: -log(e^(q.k / t) / (e^(q.k / t) + sum_j e^(q.n_j / t))), Pi-NAS eq. 4 with a temperature t.

    query q and its positive key k `[B, D]`, queue of negative keys n `[K, D]`. Memory O(B + K) instead of O(B K). The
    products run in torch, in float32 for half types (so torch's TF32 setting counts), and so is the result. Gradients
    go to query and key; the queue gets none, and may change before the backward pass. Not twice differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, and on a temperature that is not positive.
    """
    native.require_tensor("queue_nce", "query", query)
    native.require_tensor("queue_nce", "queue", queue)
    weigh = torch.is_grad_enabled() and query.requires_grad
    return _QueueNCE.apply(query, key, queue.detach(), temperature, weigh)


def queue_nce_reference(
    query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The same in plain torch."""
    positive, negative = (query * key).sum(1, keepdim=True), query @ queue.detach().T
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")


class _QueueNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, queue, temperature, weigh):
        loss, probability, expected = torch.ops.pynas.queue_nce(query, key, queue, temperature, weigh)
        ctx.save_for_backward(query, key, probability, expected)
        ctx.temperature = temperature
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, probability, expected = ctx.saved_tensors
        scale = (gradient / ctx.temperature)[:, None]
        to_query = to_key = None
        if ctx.needs_input_grad[0]:
            to_query = (scale * (expected - key)).to(query.dtype)
        if ctx.needs_input_grad[1]:
            to_key = (scale * (probability[:, None] - 1) * query).to(key.dtype)
        return to_query, to_key, None, None, None


def _check(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float) -> None:
    name = "queue_nce"
    native.require_tensor(name, "query", query)
    native.require_tensor(name, "key", key, like=query)
    native.require_tensor(name, "queue", queue, like=query)
    native.require(query.dim() == 2, name, "query of shape [B, D]", list(query.shape))
    native.require(key.shape == query.shape, name, f"key of the query's shape {list(query.shape)}", list(key.shape))
    native.require(
        queue.dim() == 2 and queue.shape[1] == query.shape[1],
        name,
        f"queue of shape [K, {query.shape[1]}]",
        list(queue.shape),
    )
    native.require(0 < temperature < float("inf"), name, "a positive, finite temperature", temperature)


def _queue_nce(query, key, queue, temperature, weigh):
    """The loss, the softmax's weight of the positive key `[B]`, and (with `weigh`) the weighted keys' sum `[B, D]`."""
    _check(query, key, queue, temperature)
    kind = native.accumulate_dtype(query.dtype)
    (batch, size), chunk = query.shape, max(_CHUNK // max(*query.shape, 1), 256)
    scaled, key = query.to(kind) / temperature, key.to(kind)
    positive = (scaled * key).sum(1)
    maximum, total = positive.clone(), torch.ones_like(positive)
    accumulated = key.clone(memory_format=torch.contiguous_format) if weigh else None
    logits = scaled.new_empty(batch * min(chunk, len(queue)))
    for start in range(0, len(queue), chunk):
        part = queue[start : start + chunk].to(kind)
        products = logits[: batch * len(part)].view(batch, len(part))
        torch.mm(scaled, part.T, out=products)
        native.call("queue_nce", query, products, maximum, total, accumulated, batch, len(part), size, kind)
        if accumulated is not None:
            accumulated.addmm_(products, part)
    probability = (positive - maximum).exp_() / total
    expected = scaled.new_empty((0, size)) if accumulated is None else accumulated.div_(total[:, None])
    return maximum + total.log() - positive, probability, expected


def _fake(query, key, queue, temperature, weigh):
    _check(query, key, queue, temperature)
    kind, (batch, size) = native.accumulate_dtype(query.dtype), query.shape
    loss, probability = query.new_empty((batch,), dtype=kind), query.new_empty((batch,), dtype=kind)
    return loss, probability, query.new_empty((batch if weigh else 0, size), dtype=kind)


native.define(
    "queue_nce",
    "(Tensor query, Tensor key, Tensor queue, float temperature, bool weigh) -> (Tensor, Tensor, Tensor)",
    _queue_nce,
    _fake,
)
