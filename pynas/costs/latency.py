"""Latency in ms of every candidate on the user's own device, as tables over the paths, and how well they add up."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pynas.costs.count import candidate_tables
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Architecture
from pynas.supernets import Supernet, evaluating
from pynas.supernets.shapes import output_shape

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
    the stem and the head. `made_from` names the device, the batch size and the median and largest spread. The net moves
    to the device and back, and its mode is restored.

    Raises:
        InputError: no repeats or no images.
    """
    if repeats < 1 or batch_size < 1:
        raise InputError(f"[latency] expected at least 1 repeat and image, got {repeats} and {batch_size}")
    device = torch.device(device)
    with evaluating(net, device):
        keys, modules, inputs = _distinct(net, image_shape)
        buffers = {shape: torch.randn(batch_size, *shape, device=device) for shape in set(inputs)}
        calls = [_call(module, buffers[shape]) for module, shape in zip(modules, inputs)]
        timings = time_calls(calls, device, repeats, warm_up)
    blocks, fixed = _tables(net, keys, timings)
    spreads = [timing.spread for timing in timings]
    made_from = {"device": device_name(device), "batch_size": batch_size, "repeats": repeats,
                 "median_spread": float(np.median(spreads)), "largest_spread": max(spreads),
                 "image_shape": list(image_shape), "space": net.space.name}  # fmt: skip
    return Costs({NAME: blocks}, {NAME: fixed}, made_from)


def _call(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: module(x)


def _distinct(net: Supernet, image_shape: tuple[int, int, int]) -> tuple[dict, list[nn.Module], list[tuple[int, ...]]]:
    """Every module that has to be measured, its input's shape, and where each candidate is in these lists."""
    keys: dict = {}
    modules: list[nn.Module] = []
    inputs: list[tuple[int, ...]] = []
    seen: dict = {}

    def add(place: tuple, module: nn.Module, shape: tuple[int, ...], description: object) -> None:
        # Candidates of other people's supernets have no description: each is its own.
        described = (description, shape) if type(description) is not int else place
        if described not in seen:
            seen[described] = len(modules)
            modules.append(module)
            inputs.append(shape)
        keys[place] = seen[described]

    shape: tuple[int, ...] = tuple(image_shape)
    if net.stem is not None:
        add(("stem",), net.stem, shape, 0)
        shape = output_shape(net.stem, shape)
    for b, cells in enumerate(net.space.blocks):
        end = shape
        for c, cell in enumerate(cells):
            end = shape
            for number, layer in enumerate(net.layers(b, c)):
                for candidate, module in enumerate(layer):
                    add((b, c, number, candidate), module, end, cell.layers[number][candidate])
                end = output_shape(layer[0], end)
        shape = end
    if net.head is not None:
        add(("head",), net.head, shape, 0)
    return keys, modules, inputs


def _tables(net: Supernet, keys: dict, timings: list[Timing]) -> tuple[list[list[np.ndarray]], float]:
    def median(*place: object) -> float:
        return timings[keys[place]].median

    blocks = candidate_tables(net.space, median)
    return blocks, sum(median(part) for part in ("stem", "head") if (part,) in keys)


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
    x = torch.randn(table.made_from["batch_size"], *table.made_from["image_shape"], device=device)
    with evaluating(net, device):
        calls = [(lambda a=a: net(x, a)) for a in architectures]
        measured = [timing.median for timing in time_calls(calls, device, repeats, warm_up)]
    predicted = [table.of(a)[NAME] for a in architectures]
    return LatencyCheck(tuple(architectures), np.array(predicted), np.array(measured))
