"""Contrastive loss against a queue of earlier keys, as a streaming softmax that never holds all logits `[B, K]`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pynas.ops import _library as native

# Elements of a chunk of logits, and of a converted chunk of keys, of at least 256 keys: 8 MiB each in float32 on the CPU,
# whose threads are soon started, and 64 MiB on CUDA, where a chunk takes several kernels.
_CHUNK = {"cpu": 2**21, "cuda": 2**24}
_SLICE = 4096  # logits of a row that a block of a CUDA kernel takes


def queue_nce(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the loss `[B]`: -log(e^(q.k / t) / (e^(q.k / t) + sum_j e^(q.n_j / t))), Pi-NAS eq. 4, temperature t.

    query q and its positive key k are `[B, D]`, the queue of negative keys n is `[K, D]`. Memory O(B + K) instead of
    O(B K): only a chunk of the logits exists at a time, at most 8 MiB (64 MiB on CUDA) or 256 keys in float32. Products
    are torch's (its TF32 setting counts); they and the loss are float32 for half types. Gradients go to query and key,
    none to the queue, which may change before the backward pass. Not twice differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, and on a temperature that is not positive.
    """
    native.require_tensor("queue_nce", "query", query)
    native.require_tensor("queue_nce", "queue", queue)
    weigh = torch.is_grad_enabled() and query.requires_grad
    return _QueueNCE.apply(query, key, queue.detach(), float(temperature), weigh)


def queue_nce_reference(
    query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the loss of `queue_nce`, in plain torch."""
    positive, negative = (query * key).sum(1, keepdim=True), query @ queue.detach().T
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")


class _QueueNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, queue, temperature, weigh):
        loss, probability, expected = _run(query, key, queue, temperature, weigh)
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
    """Return the loss, the softmax's weight of the positive key `[B]` and, with `weigh`, the weighted sum of keys `[B, D]`."""
    _check(query, key, queue, temperature)
    dtype = native.accumulate_dtype(query.dtype)
    (batch, size), chunk = query.shape, max(_CHUNK[native.backend(query)] // max(*query.shape, 1), 256)
    scaled, key = query.to(dtype) / temperature, key.to(dtype)
    positive = (scaled * key).sum(1)
    maximum, total = positive.clone(), torch.ones_like(positive)
    accumulated = key.clone(memory_format=torch.contiguous_format) if weigh else None
    logits = scaled.new_empty(batch * min(chunk, len(queue)))
    slices = (
        scaled.new_empty(2 * batch * -(-min(chunk, len(queue)) // _SLICE)) if native.backend(query) == "cuda" else None
    )
    for start in range(0, len(queue), chunk):
        part = queue[start : start + chunk].to(dtype)
        products = logits[: batch * len(part)].view(batch, len(part))
        torch.mm(scaled, part.T, out=products)
        native.call(
            "queue_nce",
            query,
            logits=products,
            maximum=maximum,
            total=total,
            accumulated=accumulated,
            slices=slices,
            slice=_SLICE,
            batch=batch,
            chunk=len(part),
            size=size,
            dtype=dtype,
        )
        if accumulated is not None:
            accumulated.addmm_(products, part)
    probability = (positive - maximum).exp_() / total
    expected = scaled.new_empty((0, size)) if accumulated is None else accumulated.div_(total[:, None])
    return maximum + total.log() - positive, probability, expected


def _fake(query, key, queue, temperature, weigh):
    _check(query, key, queue, temperature)
    dtype, (batch, size) = native.accumulate_dtype(query.dtype), query.shape
    loss, probability = query.new_empty((batch,), dtype=dtype), query.new_empty((batch,), dtype=dtype)
    return loss, probability, query.new_empty((batch if weigh else 0, size), dtype=dtype)


_run = native.define(
    "queue_nce",
    "(Tensor query, Tensor key, Tensor queue, float temperature, bool weigh) -> (Tensor, Tensor, Tensor)",
    _queue_nce,
    _fake,
)
