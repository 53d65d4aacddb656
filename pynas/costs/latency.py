"""Latency in ms of every candidate on the user's own device, as tables over the paths, and how well they add up."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Architecture
from pynas.supernets import Supernet, evaluating
from pynas.supernets.shapes import alone, output_shape
from pynas.supernets.walk import walk

NAME = "latency"


@dataclass(frozen=True)
class Timing:
    """Median time of one call in ms, and the spread: the interquartile range over the median."""

    median: float
    spread: float


def time_calls(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int, warm_up: int) -> list[Timing]:
    """Time several functions side by side: every repeat runs each of them once, so that a disturbance hits all alike."""
    times = np.empty((len(calls), repeats))
    for repeat in range(-warm_up, repeats):
        for number, call in enumerate(calls):
            elapsed = _cuda_ms(call) if device.type == "cuda" else _cpu_ms(call)
            if repeat >= 0:
                times[number, repeat] = elapsed
    low, median, high = np.percentile(times, (25, 50, 75), axis=1)
    return [Timing(float(m), float((h - l) / m)) for l, m, h in zip(low, median, high)]


def _cpu_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def device_name(device: torch.device) -> str:
    """What a latency table was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


@torch.inference_mode()
def latency(
    net: Supernet,
    image_shape: tuple[int, int, int],
    device: str | torch.device = "cpu",
    *,
    batch_size: int = 1,
    repeats: int = 20,
    warm_up: int = 3,
) -> Costs:
    """The cost table `latency`: ms for one batch, measured candidate by candidate in evaluation mode.

    Candidates of one description and input are measured once. The table adds medians along a path; the fixed part is
    the stem and the head. `metadata` names the device, the batch size and the median and largest spread. The net moves
    to the device and back, and its mode is restored.

    Raises:
        InputError: no repeats or no images.
    """
    if repeats < 1 or batch_size < 1:
        raise InputError(f"[latency] expected at least 1 repeat and image, got {repeats} and {batch_size}")
    device = torch.device(device)
    with evaluating(net, device):
        distinct = _Distinct(net)
        walked = walk(net, tuple(image_shape), distinct.visit)
        buffers = {shape: torch.randn(batch_size, *shape, device=device) for shape in set(distinct.inputs)}
        calls = [_call(module, buffers[shape]) for module, shape in zip(distinct.modules, distinct.inputs)]
        timings = time_calls(calls, device, repeats, warm_up)
    medians = [timing.median for timing in timings]
    blocks, fixed = walked.tables(medians.__getitem__), walked.fixed(medians.__getitem__)
    spreads = [timing.spread for timing in timings]
    metadata = {"device": device_name(device), "batch_size": batch_size, "repeats": repeats,
                 "median_spread": float(np.median(spreads)), "largest_spread": max(spreads),
                 "image_shape": list(image_shape), "space": net.space.name}  # fmt: skip
    return Costs({NAME: blocks}, {NAME: fixed}, metadata)


def _call(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: module(x)


class _Distinct:
    """Every module that has to be measured, once for each description and input shape."""

    def __init__(self, net: Supernet) -> None:
        self._net = net
        self.modules: list[nn.Module] = []
        self.inputs: list[tuple[int, ...]] = []
        self._seen: dict[object, tuple[int, tuple[int, ...]]] = {}

    def visit(self, module: nn.Module, shape: tuple[int, ...], place: tuple) -> tuple[int, tuple[int, ...]]:
        """The number of the measurement that stands for a module, and its output's shape."""
        described = (self._description(place), shape)
        if described not in self._seen:
            module = alone(module, shape)
            self._seen[described] = len(self.modules), output_shape(module, shape)
            self.modules.append(module)
            self.inputs.append(shape)
        return self._seen[described]

    def _description(self, place: tuple) -> object:
        # Candidates of other people's supernets have no description: each is its own.
        if len(place) == 1:
            return place
        block, cell, layer, candidate = place
        described = self._net.space.blocks[block][cell].layers[layer][candidate]
        return place if type(described) is int else described


@dataclass(frozen=True)
class LatencyCheck:
    """Whole networks against the table: ms predicted and measured, and the errors that follow."""

    architectures: tuple[Architecture, ...]
    predicted: np.ndarray  # [N] ms
    measured: np.ndarray  # [N] ms

    @property
    def scale(self) -> float:
        """Measured over predicted, the median: what fusing and caching across layers changes for all alike."""
        return float(np.median(self.measured / self.predicted))

    @property
    def error(self) -> float:
        """Mean relative error of the prediction as it stands."""
        return float(np.mean(np.abs(self.predicted / self.measured - 1)))

    @property
    def scaled_error(self) -> float:
        """Mean relative error after multiplying the predictions by `scale`."""
        return float(np.mean(np.abs(self.predicted * self.scale / self.measured - 1)))


@torch.inference_mode()
def check_latency(
    net: Supernet, table: Costs, architectures: Sequence[Architecture], device: str | torch.device = "cpu",
    *, repeats: int = 20, warm_up: int = 3,
) -> LatencyCheck:  # fmt: skip
    """Measure whole networks, side by side, against what the table says of them."""
    device = torch.device(device)
    x = torch.randn(table.metadata["batch_size"], *table.metadata["image_shape"], device=device)
    with evaluating(net, device):
        calls = [(lambda a=a: net(x, a)) for a in architectures]
        measured = [timing.median for timing in time_calls(calls, device, repeats, warm_up)]
    predicted = [table.of(a)[NAME] for a in architectures]
    return LatencyCheck(tuple(architectures), np.array(predicted), np.array(measured))
