"""Checks of every kernel beside its reference, at small, odd and half-typed sizes: for `bench.check_kernels`."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator

import torch

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


def drawn(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: str
) -> list[torch.Tensor]:
    """Random tensors of a layout."""
    return [torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(count)]


def path_batch_norm(device: str) -> Iterator[Check]:
    """Each branch of the kernels."""
    for shape, layout, dtype in itertools.product(BATCH_NORM_SHAPES, LAYOUTS, DTYPES):
        paths = 1 if shape[0] == 5 else 2

        def run(shape=shape, layout=layout, dtype=dtype, paths=paths) -> None:
            x, residual = drawn(2, shape, dtype, layout, device)
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
            x, residual, gradient = drawn(3, shape, dtype, layout, device)
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
            (x,) = drawn(1, shape, dtype, layout, device)
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
