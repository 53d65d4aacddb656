"""ensemble_loss, forward and backward: BossNAS draws 4 paths a step and projects each to 256 numbers."""

from __future__ import annotations

import torch

from bench import _timer
from bench._command import run
from pynas import ops
from pynas.ops.ensemble_loss import ensemble_loss_reference

# Paths, batch, dimension: the shape; a step of 4 paths at BossNAS's batch of 256 a GPU; its full batch of 4096;
# and rating all 256 paths of a block of 4 layers with 4 candidates.
SHAPES = [(4, 1024, 256), (4, 256, 256), (4, 4096, 256), (256, 64, 256)]


def step(loss, online: torch.Tensor, target: torch.Tensor, gradient: torch.Tensor):
    def run() -> None:
        online.grad = None
        loss(online, target, True, True).backward(gradient)

    return run


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    for shape in _timer.some(SHAPES, options):
        online = torch.randn(shape, device=options.device, requires_grad=True)
        target = torch.randn(shape, device=options.device)
        ones = torch.ones(shape[0], device=options.device)
        results = []
        for loss in (ops.ensemble_loss, ensemble_loss_reference):
            value = loss(online, target, True, True)
            results.append((value, *torch.autograd.grad(value.sum(), online)))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
        # Forward: both read; backward: online read, its gradient written.
        nbytes = 4 * online.nbytes
        functions = {
            "pynas": step(ops.ensemble_loss, online, target, ones),
            "eager": step(ensemble_loss_reference, online, target, ones),
            "copy": _timer.copy(nbytes, options.device),
        }
        if not options.no_compile:
            compiled = _timer.compiled(ensemble_loss_reference)
            functions["compiled"] = step(compiled, online, target, ones)
        _timer.report("ensemble_loss", str(list(shape)), nbytes, functions, options)


if __name__ == "__main__":
    run(main)
