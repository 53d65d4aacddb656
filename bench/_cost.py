"""Costs of a rating: wall-clock and CPU seconds, and memory."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench._memory import peak_bytes

# What was reported: a block's rows, seconds by name; the reference begins one.
reported: list[dict[str, float]] = []


@dataclass
class Cost:
    """Wall-clock and CPU seconds (all threads; a busy machine disturbs them less), and bytes more than before."""

    seconds: float
    cpu: float
    peak: int = 0

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.seconds * factor, self.cpu * factor, self.peak)

    @classmethod
    def mean(cls, costs: list[Cost]) -> Cost:
        """The mean."""
        return cls(statistics.mean(c.seconds for c in costs), statistics.mean(c.cpu for c in costs))

    def report(self, name: str, paths: int, reference: Cost, note: str = "") -> None:
        """One line."""
        ratio = f"{reference.seconds / self.seconds:6.1f} x (a) (CPU {reference.cpu / self.cpu:5.1f} x)"
        if reference is self:
            reported.append({})
        reported[-1][name.strip()] = self.seconds
        speed = f"{self.seconds:8.2f} s {self.cpu:8.2f} CPU s {paths / self.seconds:9.1f} paths/s"
        print(f"{name:34s} {speed} {ratio}  {note}", flush=True)


def timed(function, device: str) -> tuple[Cost, Any]:
    """What a call costs, and what it gives."""
    gc.collect()
    before = peak_bytes(device, reset=True)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started, cpu = time.perf_counter(), time.process_time()
    result = function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Cost(seconds, cpu, peak_bytes(device) - before), result


def repeated(function, arguments: argparse.Namespace):
    """The median cost of some runs, and the last result."""
    runs = [timed(function, arguments.device) for _ in range(arguments.repeat)]
    return sorted((cost for cost, _ in runs), key=lambda cost: cost.seconds)[len(runs) // 2], runs[-1][1]


def agreement(scores: int, worst: float) -> str:
    """How many scores were compared, and the largest relative difference."""
    return f"{scores} scores within {worst:.1e}" if scores else "scores not compared (--check)"
