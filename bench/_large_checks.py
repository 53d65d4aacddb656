"""Checks of the kernels at more elements than 32 bits count: for `bench.check_kernels`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench._small_checks import LAYOUTS, Check, close, front
from pynas import ops
from pynas.ops.ensemble_loss import ensemble_loss_reference
from pynas.ops.pareto import pareto_pairs
from pynas.ops.path_distance import KINDS


def large(device: str, elements: int) -> Iterator[Check]:
    """More than 2**31 elements in half types; the reference is the kernel on a part, or plain torch part by part."""
    side = int(elements**0.5) + 2
    backward = torch.ops.pynas.path_batch_norm_backward

    def norm(layout: torch.memory_format) -> None:
        x = torch.randn(4, elements // (4 * 128 * 128) + 1, 128, 129, device=device, dtype=torch.float16)
        x = x.contiguous(memory_format=layout)
        y, mean, var = ops.path_batch_norm(x, 2, activation="relu", out=x.clone())
        last = ops.path_batch_norm(x[2:], 1, activation="relu")
        for whole, part in ((y[2:], last[0]), (mean[1:], last[1]), (var[1:], last[2])):
            assert torch.equal(whole, part)

    def norm_backward(layout: torch.memory_format) -> None:
        x = torch.randn(4, elements // (4 * 128 * 128) + 1, 128, 129, device=device, dtype=torch.float16)
        x = x.contiguous(memory_format=layout)
        gradient, mean, var = torch.randn_like(x), *torch.rand(2, 2, x.shape[1], device=device)
        settings = (None, None, 1e-5, "silu", None)
        whole = backward(gradient, x, 2, *settings, mean, var, False)
        last = backward(gradient[2:], x[2:], 1, *settings, mean[1:], var[1:], False)
        for found, wanted in zip((whole[0][2:], whole[1][1:], whole[2][1:]), last):
            assert torch.equal(found, wanted)

    def distance(kind: str) -> None:
        x = torch.randn(4, elements // 4 + 5, device=device, dtype=torch.bfloat16)
        whole, part = ops.path_distance(x, x[:2], kind), ops.path_distance(x[2:], x[:2], kind)
        assert whole[0].abs() < 1e-5 and whole[1] == part[0]

    def ensemble() -> None:
        batch = elements // (4 * 4096) + 3
        online = torch.randn(4, batch, 4096, device=device, dtype=torch.float16).requires_grad_()
        target = torch.randn(4, batch, 4096, device=device, dtype=torch.float16)
        whole = ops.ensemble_loss(online, target, True, True)
        (gradient,) = torch.autograd.grad(whole.sum(), online)
        parts = [ensemble_loss_reference(u.float(), v.float(), True, True) * u.shape[1]
                 for u, v in zip(online.detach().split(1 + batch // 8, 1), target.split(1 + batch // 8, 1))]  # fmt: skip
        close(whole.detach(), torch.stack(parts).sum(0) / batch, torch.float32)
        last = online.detach()[:, -2:].float().requires_grad_()
        loss = ensemble_loss_reference(last, target[:, -2:].float(), True, True).sum()
        (wanted,) = torch.autograd.grad(loss, last)
        # Gradients are of the size 1 / batch; halves below 6e-8 vanish.
        torch.testing.assert_close(gradient[:, -2:].float() * batch, wanted * 2, rtol=2e-2, atol=6e-8 * batch)

    def nce() -> None:
        query, key = torch.nn.functional.normalize(torch.randn(2, 3, 128, device=device), dim=2).half()
        queue = torch.randn(elements // 128 + 3, 128, device=device, dtype=torch.float16).div_(12)
        found = ops.queue_nce(query, key, queue, 0.2)
        sums = [(query.float() @ part.float().T / 0.2).logsumexp(1) for part in (*queue.split(1 << 20), key[:1])]
        positive = (query.float() * key.float()).sum(1) / 0.2
        wanted = torch.stack([*sums[:-1], positive]).logsumexp(0) - positive
        close(found, wanted, torch.float32, factor=10)

    def saliency() -> None:
        weight, grad = (torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2))
        found = ops.saliency_boxes(weight, grad, [side], [side - 1])
        wanted = sum(
            (w[:, :-1].double() * g[:, :-1].double()).abs().sum() for w, g in zip(weight.split(999), grad.split(999))
        )
        close(found[0, 0], torch.as_tensor(wanted), torch.float32)

    def pairs() -> None:
        sides = [*front(side, 1, device), *front(side, 1, device)]
        assert torch.equal(pareto_pairs(*sides).cpu(), pareto_pairs(*(one.cpu() for one in sides)))

    for layout in LAYOUTS:
        yield f"path_batch_norm {layout}", lambda layout=layout: norm(layout)
        yield f"path_batch_norm backward {layout}", lambda layout=layout: norm_backward(layout)
    for kind in KINDS:
        yield f"path_distance {kind}", lambda kind=kind: distance(kind)
    yield from (("ensemble_loss", ensemble), ("queue_nce", nce), ("saliency_boxes", saliency), ("pareto_pairs", pairs))
