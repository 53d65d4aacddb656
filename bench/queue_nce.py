"""queue_nce, forward and backward: Pi-NAS has a queue of 49,152 keys of dimension 128 and a temperature of 0.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import _timer
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


def products(query: torch.Tensor, queue: torch.Tensor):
    """The two matrix products that no method can leave out."""
    logits = torch.empty(len(query), len(queue), device=query.device)

    def run() -> None:
        torch.mm(query, queue.T, out=logits)
        torch.mm(logits, queue)

    return run


def main() -> None:
    options = _timer.arguments(__doc__)
    for batch, size, length in SHAPES:
        rows = [F.normalize(torch.randn(n, size, device=options.device), dim=1) for n in (batch, batch, length)]
        query, key, queue = rows[0].requires_grad_(), rows[1], rows[2]
        results = []
        for loss in (ops.queue_nce, queue_nce_reference):
            value = loss(query, key, queue, TEMPERATURE)
            results.append((value, *torch.autograd.grad(value.sum(), query)))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
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
        flops = 4 * batch * size * length
        times = _timer.report("queue_nce", str([batch, size, length]), nbytes, functions, options)
        print(f"{flops / times['pynas'] / 1e9:.0f} GFLOP/s, products alone {flops / times['products'] / 1e9:.0f}")


if __name__ == "__main__":
    main()
