"""Latency in ms of every candidate on the user's device, and a check of its sums against whole networks."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pynas.copies import copy_module
from pynas.costs.by_kind import collect, description, shape_of, visit
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Architecture, Space
from pynas.supernets import Net
from pynas.supernets.net import Place, place_name
from pynas.supernets.shapes import Shape, blame, extracted, input_dtypes, kept_generators, output_shape, samples

NAME = "latency"


@dataclass(frozen=True)
class Timing:
    """Median time of one call in ms, and the spread: the interquartile range over the median."""

    median: float
    spread: float


def time_calls(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int, warm_up: int) -> list[Timing]:
    """Time several functions; every repeat runs each of them once, so that a disturbance affects all of them."""
    times = np.empty((len(calls), repeats))
    for repeat in range(-warm_up, repeats):
        for number, call in enumerate(calls):
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


def device_name(device: torch.device) -> str:
    """Name of a device for a latency table's metadata."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def latency(
    net: Net,
    example: Any,
    device: str | torch.device = "cpu",
    *,
    batch_size: int = 1,
    repeats: int = 20,
    warm_up: int = 3,
) -> Any:
    """The cost `latency`: ms for one batch, measured candidate by candidate in evaluation mode.

    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables. Candidates of equal
    description and input are measured once. A path costs the sum of its candidates' medians (a module that stands in two
    layers runs twice); the fixed part is the stem and the head. `metadata` names the device, the batch size and the median
    and largest spread. Copies of the modules run: the net and torch's random generators stay as they are.

    example: as in `count`: the shape of one input, an input, or `(input, side)`.

    Raises:
        InputError: no repeats or no images, a module that does not run, and all that `count` refuses.
    """
    if repeats < 1 or batch_size < 1:
        raise InputError(f"[latency] expected at least 1 repeat and image, got {repeats} and {batch_size}")
    device = torch.device(device)
    distinct = _Distinct(net.space)
    walk = visit(net, example, distinct.visit, NAME)
    modules = [copy_module(module).to(device).eval() for module in distinct.modules]
    with kept_generators(device), torch.inference_mode():
        kinds = [(shape, input_dtypes(module)[0]) for module, shape in zip(modules, distinct.inputs)]
        inputs = {(shape, dtype): samples(batch_size, shape, device, dtype) for shape, dtype in set(kinds)}
        calls = [_call(*one) for one in zip(modules, (inputs[kind] for kind in kinds), distinct.places)]
        timings = time_calls(calls, device, repeats, warm_up)
    spreads = [timing.spread for timing in timings]
    metadata = {"device": device_name(device), "batch_size": batch_size, "repeats": repeats,
                "median_spread": float(np.median(spreads)), "largest_spread": max(spreads),
                "image_shape": list(shape_of(example))}  # fmt: skip
    return collect(net.space, walk, {NAME: [timing.median for timing in timings].__getitem__}, metadata)


def _call(module: nn.Module, x: torch.Tensor, place: Place) -> Callable[[], object]:
    def call() -> object:
        try:
            return module(x)
        except Exception as error:
            raise InputError(f"[latency] expected a module that runs on {x.device} for {len(x)} images, got "
                             f"{blame(module, error)} in {place_name(place)}; time it on another device") from error  # fmt: skip

    return call


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


@dataclass(frozen=True)
class LatencyCheck:
    """Latency of whole networks in ms, as a table predicts it and as measured."""

    architectures: tuple[Architecture, ...]
    predicted: np.ndarray  # [N] ms
    measured: np.ndarray  # [N] ms

    @property
    def scale(self) -> float:
        """Median of measured over predicted latency: the effect of fusing and caching across layers on all networks."""
        return float(np.median(self.measured / self.predicted))

    @property
    def error(self) -> float:
        """Mean relative error of the predictions."""
        return float(np.mean(np.abs(self.predicted / self.measured - 1)))

    @property
    def scaled_error(self) -> float:
        """Mean relative error of the predictions times `scale`."""
        return float(np.mean(np.abs(self.predicted * self.scale / self.measured - 1)))


def check_latency(
    net: Any, table: Costs, architectures: Sequence[Architecture], device: str | torch.device = "cpu",
    *, repeats: int = 20, warm_up: int = 3,
) -> LatencyCheck:  # fmt: skip
    """Measure whole networks, and compare them with the predictions of a latency table; a copy of the net runs."""
    device = torch.device(device)
    net = copy_module(net).to(device).eval()
    with kept_generators(device), torch.inference_mode():
        x = samples(table.metadata["batch_size"], table.metadata["image_shape"], device, input_dtypes(net)[0])
        calls = [(lambda a=a: net(x, a)) for a in architectures]
        measured = [timing.median for timing in time_calls(calls, device, repeats, warm_up)]
    predicted = [table.of(a)[NAME] for a in architectures]
    return LatencyCheck(tuple(architectures), np.array(predicted), np.array(measured))
