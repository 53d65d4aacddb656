"""Every kernel once, beside its reference: at odd, half-typed and (--large) more than 2**31 elements. For compute-sanitizer.

    compute-sanitizer --tool memcheck --kernel-name kernel_substring=pynas python -m bench.check_kernels [--large]

Few launches, so that a sanitizer, which slows each one down many times, ends within minutes.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterator

import torch

from bench._command import command_line, device, run
from pynas import ops
from pynas.ops import _library as native
from pynas.ops._path_batch_norm import ACTIVATIONS, path_batch_norm_reference
from pynas.ops.ensemble_loss import ensemble_loss_reference
from pynas.ops.pareto import pareto_filter, pareto_filter_reference, pareto_pairs, pareto_pairs_reference
from pynas.ops.path_distance import KINDS, path_distance_reference
from pynas.ops.queue_nce import queue_nce_reference
from pynas.ops.saliency_boxes import saliency_boxes_reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-10, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
# Words of one, two and more channels, tiles with channels left over, channels that a block cannot hold.
BATCH_NORM_SHAPES = (
    (6, 5, 7, 3), (4, 70, 9, 8), (5, 3, 100, 99), (6, 24, 7, 7), (4, 20, 6, 6), (2, 16, 1, 3), (64, 9, 7, 7), (5, 16, 104, 100)
)  # fmt: skip
Check = tuple[str, Callable[[], None]]


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    """Raise AssertionError unless both agree to the dtype's rounding."""
    rounding = factor * ROUNDING[dtype]
    torch.testing.assert_close(found.double().cpu(), wanted.double().cpu(), rtol=rounding, atol=rounding)


def path_batch_norm(device: str) -> Iterator[Check]:
    """Each branch of the kernels."""
    for shape, layout, dtype in itertools.product(BATCH_NORM_SHAPES, LAYOUTS, DTYPES):
        paths = 1 if shape[0] == 5 else 2

        def run(shape=shape, layout=layout, dtype=dtype, paths=paths) -> None:
            x, residual = (
                torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(2)
            )
            weight, bias = torch.rand(2, shape[1], device=device).to(dtype)
            for activation in ACTIVATIONS:
                arguments = (x, paths, weight, bias, 1e-3, activation, residual)
                for found, wanted in zip(ops.path_batch_norm(*arguments), path_batch_norm_reference(*arguments)):
                    close(found, wanted, dtype)

        yield f"path_batch_norm {list(shape)} {dtype} {layout}", run


def path_batch_norm_backward(device: str) -> Iterator[Check]:
    """Gradients through the batch's statistics and beside given ones."""
    for shape, layout, dtype in itertools.product(BATCH_NORM_SHAPES, LAYOUTS, DTYPES):
        paths = 1 if shape[0] == 5 else 2

        def run(shape=shape, layout=layout, dtype=dtype, paths=paths) -> None:
            x, residual, gradient = (
                torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(3)
            )
            weight, bias = torch.rand(2, shape[1], device=device).to(dtype)
            for activation, given in zip(ACTIVATIONS, (False, True, False)):
                mean, var = torch.rand(2, paths, shape[1], device=device) + 0.5 if given else (None, None)
                z = path_batch_norm_reference(x, paths, weight, bias, 1e-3, None, residual, mean=mean, var=var)[0]
                kept = gradient.masked_fill(z.abs() < 1e-2, 0)  # where rounding may turn relu off or on
                results = []
                for norm, kind in ((ops.path_batch_norm, dtype), (path_batch_norm_reference, torch.float64)):
                    leaves = [leaf.to(kind, copy=True).requires_grad_() for leaf in (x, weight, bias, residual)]
                    y = norm(leaves[0], paths, *leaves[1:3], 1e-3, activation, leaves[3], mean=mean, var=var)[0]
                    results.append(torch.autograd.grad(y, leaves, kept.to(kind)))
                for found, wanted in zip(*results):
                    scale = wanted.abs().max()
                    close(found / scale, wanted / scale, dtype)

        yield f"path_batch_norm backward {list(shape)} {dtype} {layout}", run


def running_averages(device: str) -> Iterator[Check]:
    """Those that the pass forward of one path moves."""
    for shape, layout, dtype in itertools.product(BATCH_NORM_SHAPES, LAYOUTS, DTYPES):

        def run(shape=shape, layout=layout, dtype=dtype) -> None:
            x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
            averages = torch.rand(2, shape[1], device=device, dtype=native.accumulate_dtype(dtype))
            n = x.numel() // shape[1]
            _, mean, var = path_batch_norm_reference(x, 1)
            wanted = 0.7 * averages + 0.3 * torch.cat([mean, var * n / (n - 1)])
            ops.path_batch_norm(x, 1, running_mean=averages[0], running_var=averages[1], momentum=0.3)
            close(averages, wanted, dtype)

        yield f"path_batch_norm averages {list(shape)} {dtype} {layout}", run


def path_distance(device: str) -> Iterator[Check]:
    """Every kind; a sample longer than a chunk."""
    for shape, kind, dtype in itertools.product(((3, 2, 7, 5), (5, 1, 20001)), KINDS, DTYPES):

        def run(shape=shape, kind=kind, dtype=dtype) -> None:
            outputs = torch.randn(shape[0] * shape[1], *shape[2:], device=device).to(dtype)
            target = torch.randn(shape[1:], device=device).to(dtype)
            close(
                ops.path_distance(outputs, target, kind), path_distance_reference(outputs, target, kind), torch.float32
            )

        yield f"path_distance {kind} {list(shape)} {dtype}", run


def ensemble_loss(device: str) -> Iterator[Check]:
    """Forward and backward."""
    for shape, dtype in itertools.product(((3, 7, 33), (5, 65, 256), (1, 1, 1)), DTYPES):

        def run(shape=shape, dtype=dtype) -> None:
            online, target = torch.randn(2, *shape, device=device).to(dtype)
            results = []
            for loss, kind in ((ops.ensemble_loss, dtype), (ensemble_loss_reference, torch.float64)):
                leaf = online.to(kind, copy=True).requires_grad_()
                value = loss(leaf, target.to(kind), True, shape[0] > 1)
                results.append((value, *torch.autograd.grad(value.sum(), leaf)))
            for found, wanted in zip(*results):
                close(found, wanted, dtype)

        yield f"ensemble_loss {list(shape)} {dtype}", run


def queue_nce(device: str) -> Iterator[Check]:
    """Forward and backward, a queue of no round length."""
    for shape, dtype in itertools.product(((7, 33, 1001), (64, 128, 4099)), DTYPES):

        def run(shape=shape, dtype=dtype) -> None:
            rows = [torch.nn.functional.normalize(torch.randn(n, shape[1], device=device), dim=1).to(dtype)
                    for n in (shape[0], shape[0], shape[2])]  # fmt: skip
            results = []
            for loss, kind in ((ops.queue_nce, dtype), (queue_nce_reference, torch.float64)):
                query, key, queue = (row.to(kind, copy=True) for row in rows)
                value = loss(query.requires_grad_(), key, queue, 0.2)
                results.append((value, *torch.autograd.grad(value.sum(), query)))
            for found, wanted in zip(*results):
                close(found, wanted, dtype, factor=4)

        yield f"queue_nce {list(shape)} {dtype}", run


def saliency_boxes(device: str) -> Iterator[Check]:
    """Bounds at no multiple of a tile; rows in place."""
    for step, dtype in itertools.product((1, 3), DTYPES):

        def run(step=step, dtype=dtype) -> None:
            weight, grad = torch.randn(2, 301 * step, 77, device=device).to(dtype)
            arguments = (weight[::step], grad[::step], [1, 133, 301, 7], [77, 5, 64])
            close(ops.saliency_boxes(*arguments), saliency_boxes_reference(*arguments), torch.float32)

        yield f"saliency_boxes every {step} rows {dtype}", run


def front(size: int, costs: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and costs, the one falling with the other."""
    cost = torch.randint(0, 2**39, (size, costs))
    return (2**39 - cost.sum(1) // costs + torch.randint(0, 2**37, (size,))).to(device), cost.to(device)


def pareto(device: str) -> Iterator[Check]:
    """One cost and two."""
    for costs in (1, 2):

        def run(costs=costs) -> None:
            sides = [*front(37, costs, device), *front(41, costs, device)]
            wanted = pareto_pairs_reference(*(side.cpu() for side in sides))
            assert torch.equal(pareto_pairs(*sides).cpu(), wanted)

        def several_tiles(costs=costs) -> None:
            points = front(5001, costs, device)
            assert torch.equal(pareto_filter(*points).cpu(), pareto_filter_reference(*(one.cpu() for one in points)))

        yield f"pareto_pairs {costs} costs", run
        yield f"pareto_filter {costs} costs", several_tiles


def traverse(device: str) -> Iterator[Check]:
    """One to four limits, lists of several tiles, fewer pairs at a time than there are."""
    module = importlib.import_module("pynas.ops.traversal")
    for limits, top_k in itertools.product((1, 2, 3, 4), (1, 100)):

        def run(limits=limits, top_k=top_k) -> None:
            costs = torch.randint(0, 10**6, (6 * 14, limits))
            losses = (10**6 - costs.double().mean(1) + 1e4 * torch.randn(len(costs))).long()
            arguments = (torch.arange(0, 85, 14), losses, costs, costs.view(6, 14, limits).amax(1).sum(0) // 2)
            wanted = module.traverse(*arguments, top_k=top_k, device="cpu")
            before = module._DEVICE_SUMS, module._DEVICE_PAIRS
            module._DEVICE_SUMS, module._DEVICE_PAIRS = 0, 50
            try:
                found = module.traverse(*arguments, top_k=top_k, device=device)
            finally:
                module._DEVICE_SUMS, module._DEVICE_PAIRS = before
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[2], wanted[2])

        yield f"traverse {limits} limits, top {top_k}", run


def small(device: str) -> Iterator[Check]:
    """Every kernel at small and odd sizes."""
    for kernel in (path_batch_norm, path_batch_norm_backward, running_averages, path_distance, ensemble_loss, queue_nce,
                   saliency_boxes, pareto, traverse):  # fmt: skip
        yield from kernel(device)


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


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--large", action="store_true", help="more elements than 32 bits count")
    parser.add_argument("--elements", type=int, default=2**31, help="of --large: more than so many")
    options = parser.parse_args()
    checks = list(large(options.device, options.elements) if options.large else small(options.device))
    wrong = 0
    for name, check in checks:
        torch.manual_seed(0)
        start, on_gpu = time.perf_counter(), options.device.startswith("cuda")
        try:
            check()
            if on_gpu:
                torch.cuda.synchronize()  # what a kernel did wrong is raised here
            said = "agrees"
        except Exception as error:  # the others are checked all the same
            wrong += 1
            said = f"FAILED: {type(error).__name__}: {str(error).strip()[:500]}"
        if on_gpu and options.large:
            most, left = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.memory_allocated() / 2**30
            said += f", at most {most:.1f} GiB, {left:.1f} GiB left"
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if options.large or said != "agrees":
            print(f"{name}: {said}, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{len(checks) - wrong} of {len(checks)} agree")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    run(main)
