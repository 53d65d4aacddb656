"""Latency in ms of every candidate in the runtime that serves it, and of whole networks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.costs.by_kind import collect, description, shape_of, visit
from pynas.costs.count import count_module
from pynas.errors import InputError
from pynas.runtimes import RUNTIMES, Workload, build
from pynas.spaces import Space
from pynas.supernets import Net
from pynas.supernets.net import Place, place_name
from pynas.supernets.shapes import Shape, extracted, input_dtypes, kept_generators, output_shape, samples

NAME = "latency"
# Called with how many programs are built, and how many there are.
OnBuilt = Callable[[int, int], None]


@dataclass(frozen=True)
class Timing:
    """Median time of one call in ms, and the spread: the interquartile range over the median."""

    median: float
    spread: float


def time_calls(
    calls: Sequence[Callable[[], object]], device: torch.device, repeats: int, warm_up: int, woken: bool = False
) -> list[Timing]:
    """Time several functions; every repeat runs each of them once, so that a disturbance affects all of them.

    woken: run each function once more just before it is timed: a runtime's own threads fall asleep while others run.
    """
    times = np.empty((len(calls), repeats))
    for repeat in range(-warm_up, repeats):
        for number, call in enumerate(calls):
            if woken:
                call()
            elapsed = _cuda_ms(call) if device.type == "cuda" else _host_ms(call, device)
            if repeat >= 0:
                times[number, repeat] = elapsed
    low, median, high = np.percentile(times, (25, 50, 75), axis=1)
    return [Timing(float(m), float((h - l) / m)) for l, m, h in zip(low, median, high)]


def _host_ms(call: Callable[[], object], device: torch.device) -> float:
    """Return the time on the host's clock, from an idle device until the call's work on it is done."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _cuda_ms(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_modules(
    modules: Sequence[nn.Module],
    inputs: Sequence[Shape | Tensor],
    workload: Workload,
    names: Sequence[str],
    repeats: int,
    warm_up: int,
    on_built: OnBuilt = lambda done, total: None,
) -> list[Timing]:
    """Time modules side by side as programs of the workload's runtime.

    inputs: a batch on the workload's device for each module, or the shape of one input, without the batch axis, for random ones.
    names: of the modules, for messages.

    Raises:
        InputError: no repeats, or a module that the runtime does not take; the message names it and its operator.
    """
    if repeats < 1:
        raise InputError(f"[latency] expected at least 1 repeat, got {repeats}")
    device, calls = workload.device, list[Callable[[], object]]()
    drawn = cache(partial(samples, workload.batch_size))
    with workload.at_work(), kept_generators(device), torch.no_grad():
        for number, (module, given, name) in enumerate(zip(modules, inputs, names), 1):
            module = copy_module(module).to(device).eval()
            batch = given if isinstance(given, Tensor) else drawn(tuple(given), device, input_dtypes(module)[0])
            try:
                program = build(workload.runtime, module, batch, workload.used_threads)
            except InputError as error:
                raise InputError(f"{error}, for {name}; time it in another runtime, on another device") from error
            calls.append(partial(program.call, batch))
            on_built(number, len(modules))
        return time_calls(calls, device, repeats, warm_up, woken=not RUNTIMES[workload.runtime].by_torch)


def latency(
    net: Net,
    example: Any,
    device: str | torch.device = "cpu",
    *,
    batch_size: int = 1,
    runtime: str = "torch",
    threads: int | None = None,
    repeats: int = 20,
    warm_up: int = 3,
    on_built: OnBuilt = lambda done, total: None,
) -> Any:
    """The cost `latency`: ms for one batch, measured candidate by candidate in evaluation mode.

    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables. Candidates of equal
    description and input are measured once. A path costs the sum of its candidates' medians (a module that stands in two
    layers runs twice); the fixed part is the stem and the head. A whole network can be faster or slower than this sum:
    `check_latency` measures some. Copies of the modules run: the net and torch's random generators stay as they are.

    example: as in `count`: the shape of one input, an input, or `(input, side)`. batch_size, runtime, threads: see
        `pynas.runtimes.Workload`. on_built: called after each module that is made ready, with how many are, and of how many.

    `metadata` names the runtime, the device and the batch size, the median and largest spread, and under `candidates` lists what
    was measured: `place` (block, cell, layer and candidate, or "stem" and "head"), `input` (shape), `ms`, `spread`, `params` and
    `madds` of each.

    Raises:
        InputError: what `Workload` and `time_modules` refuse, and all that `count` refuses.
    """
    workload = Workload(runtime, torch.device(device), batch_size, threads)
    distinct = _Distinct(net.space)
    walk = visit(net, example, distinct.visit, NAME)
    names = [place_name(place) for place in distinct.places]
    timings = time_modules(distinct.modules, distinct.inputs, workload, names, repeats, warm_up, on_built)
    spreads = [timing.spread for timing in timings]
    metadata = {**workload.metadata, "repeats": repeats, "median_spread": float(np.median(spreads)),
                "largest_spread": max(spreads), "image_shape": list(shape_of(example)),
                "candidates": distinct.rows(timings)}  # fmt: skip
    return collect(net.space, walk, {NAME: [timing.median for timing in timings].__getitem__}, metadata)


class _Distinct:
    """Modules to measure, one for each description and input shape; a module's value is its number among them."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.modules: list[nn.Module] = []
        self.inputs: list[Shape] = []
        self.places: list[Place] = []
        self._known: dict[Hashable, tuple[int, Shape]] = {}

    def visit(self, module: nn.Module, shape: Shape, place: Place) -> tuple[int, Shape]:
        """Number of the measurement that stands for a module, and the shape of its output."""
        key = description(self._space, place), shape
        if key not in self._known:
            module = extracted(module, shape)
            self._known[key] = len(self.modules), output_shape(module, shape)
            self.modules.append(module)
            self.inputs.append(shape)
            self.places.append(place)
        return self._known[key]

    def rows(self, timings: Sequence[Timing]) -> list[dict[str, Any]]:
        """Return each measurement with its place and the counted costs of its module."""
        rows = []
        for module, shape, place, timing in zip(self.modules, self.inputs, self.places, timings):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of operators without a formula: `count` names them
                counted, _ = count_module(module, shape)
            rows.append({"place": list(place), "input": list(shape), "ms": timing.median, "spread": timing.spread,
                         "params": counted["params"], "madds": counted["madds"]})  # fmt: skip
        return rows
