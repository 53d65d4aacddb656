"""Speed and memory of a network's passes (Pi-NAS, table 2; BossNAS, table 1)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pynas.copies import copy_module
from pynas.costs.latency import time_calls
from pynas.errors import InputError
from pynas.supernets.shapes import Shape, blame, input_dtypes, samples

# Called with a network in evaluation mode on its device and a batch `[B, ...]`, returns the function of such a batch that is timed.
Prepare = Callable[[nn.Module, Tensor], Callable[[Tensor], object]]


def training_passes(model: nn.Module, batch: Tensor) -> Callable[[Tensor], object]:
    """Return the forward and backward pass of a network in training mode, BossNAS's compute time; a `Prepare`."""
    model.train().requires_grad_(True)

    def passes(x: Tensor) -> None:
        model.zero_grad()
        with torch.enable_grad():
            model(x).sum().backward()

    return passes


@dataclass(frozen=True)
class Speed:
    """Speed of a network; spreads are the interquartile range over the median.

    images_per_second, spread: in batches. batch_latency: ms for a batch. peak_memory: bytes of weights, images and all that lives
    at the worst moment of a batch, see `memory_source`; None where it cannot be counted. latency: ms for one image, None in
    training, where batch norm needs several.
    """

    images_per_second: float
    batch_latency: float
    spread: float
    peak_memory: int | None
    latency: float | None
    latency_spread: float | None


def memory_source(device: torch.device) -> str:
    """Name what counts the memory: torch's allocator on CUDA, its profiler elsewhere, which does not see libraries' own buffers."""
    return "torch.cuda.max_memory_allocated" if device.type == "cuda" else "torch.profiler"


def measure(
    model: nn.Module,
    shape: Shape,
    device: torch.device,
    prepare: Prepare,
    *,
    batch_size: int = 128,
    repeats: int = 10,
    warm_up: int = 3,
    by_torch: bool = True,
) -> Speed:
    """Time a copy of a network on random images `[batch_size, *shape]` and on one of them.

    by_torch: torch runs the network, so that its memory can be counted.

    Raises:
        InputError: a network that does not run on so many images, or no images or repeats.
    """
    if batch_size < 1 or repeats < 1:
        raise InputError(f"[benchmark] expected at least 1 image and repeat, got {batch_size} and {repeats}")
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        model = copy_module(model).to(device).eval()
        batch = samples(batch_size, shape, device, input_dtypes(model)[0])
        inputs = [batch] if prepare is training_passes else [batch, batch[:1].clone()]
        with torch.no_grad():
            calls = [partial(prepare(model, x), x) for x in inputs]
            peak = _peak(model, batch, calls[0]) - held if by_torch else None
            many, *one = (time_calls([call], device, repeats, warm_up, woken=not by_torch)[0] for call in calls)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"[benchmark] expected a network that runs on {batch_size} images of {'x'.join(map(str, shape))} on "
                         f"{device}, got {blame(model, error)}; try a smaller --batch-size") from error  # fmt: skip
    latency = (one[0].median, one[0].spread) if one else (None, None)
    return Speed(batch_size / many.median * 1e3, many.median, many.spread, peak, *latency)


def _peak(model: nn.Module, batch: Tensor, call: Callable[[], object]) -> int:
    """Return the most bytes that a call needs, weights and batch included."""
    if batch.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(batch.device)
        call()
        return torch.cuda.max_memory_allocated(batch.device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would log to stderr that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), batch))
    return held + max(itertools.accumulate(changes), default=0)
