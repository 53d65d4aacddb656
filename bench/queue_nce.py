"""queue_nce, forward and backward: Pi-NAS has a queue of 49,152 keys of dimension 128 and a temperature of 0.2.

Beside eager torch, torch.compile and the two products: the linear cross-entropies of cut-cross-entropy (its torch.compile
form: its own kernel takes half types on a GPU only) and, on a GPU, of Liger, which give the same loss by way of the queue's
log-sum-exp.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from bench import _timer
from bench._command import installed, run
from pynas import ops
from pynas.ops.queue_nce import queue_nce_reference

# Batch, dimension, queue: Pi-NAS's batch of 256, of 64 on one GPU of several, and MoCo's queue of 65,536.
SHAPES = [(256, 128, 49152), (64, 128, 49152), (256, 128, 65536)]
TEMPERATURE = 0.2


def step(loss, query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor):
    def run() -> None:
        query.grad = None
        loss(query, key, queue, TEMPERATURE).mean().backward()

    return run


def by_cross_entropy(linear_cross_entropy):
    """The loss from a linear cross-entropy `(embeddings, classes, targets) -> [B]`, which knows no positive key of its own.

    With the queue as classes and its first key as target n, it is log(sum_j e^(q.n_j / t)) - q.n / t.
    """

    def loss(query, key, queue, temperature):
        scaled = query / temperature
        targets = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        negative = linear_cross_entropy(scaled, queue, targets) + scaled @ queue[0]
        return F.softplus(negative - (scaled * key).sum(1))

    return loss


def others(options) -> dict:
    """Other projects' losses, by name."""
    found, on_gpu = {}, options.device.startswith("cuda")
    if not options.no_compile and (cut := installed("cut_cross_entropy", "cut-cross-entropy")):
        entropy = partial(cut.linear_cross_entropy, reduction="none", impl="torch_compile")
        found["cut-cross-entropy"] = by_cross_entropy(entropy)
    if on_gpu and not options.short and (liger := installed("liger_kernel.transformers", "liger-kernel")):
        entropy = liger.LigerFusedLinearCrossEntropyLoss(reduction="none")
        found["liger"] = by_cross_entropy(lambda embeddings, classes, targets: entropy(classes, embeddings, targets))
    return found


def products(query: torch.Tensor, queue: torch.Tensor):
    """The two matrix products that no method can leave out."""
    logits = torch.empty(len(query), len(queue), device=query.device)

    def run() -> None:
        torch.mm(query, queue.T, out=logits)
        torch.mm(logits, queue)

    return run


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    theirs = others(options)
    for batch, size, length in _timer.some(SHAPES, options):
        rows = [F.normalize(torch.randn(n, size, device=options.device), dim=1) for n in (batch, batch, length)]
        query, key, queue = rows[0].requires_grad_(), rows[1], rows[2]
        results = []
        for loss in (queue_nce_reference, ops.queue_nce, *theirs.values()):
            value = loss(query, key, queue, TEMPERATURE)
            results.append((value, *torch.autograd.grad(value.sum(), query)))
        for found in results[1:]:
            torch.testing.assert_close(found, results[0], rtol=1e-4, atol=1e-5)
        nbytes = 2 * queue.nbytes
        functions = {
            "pynas": step(ops.queue_nce, query, key, queue),
            "eager": step(queue_nce_reference, query, key, queue),
            "products": products(query.detach(), queue),
            "copy": _timer.copy(nbytes, options.device),
        }
        if not options.no_compile:
            compiled = _timer.compiled(queue_nce_reference)
            functions["compiled"] = step(compiled, query, key, queue)
        functions |= {name: step(loss, query, key, queue) for name, loss in theirs.items()}
        flops = 4 * batch * size * length
        times = _timer.report("queue_nce", str([batch, size, length]), nbytes, functions, options)
        print(f"{flops / times['pynas'] / 1e9:.0f} GFLOP/s, products alone {flops / times['products'] / 1e9:.0f}")


if __name__ == "__main__":
    run(main)
