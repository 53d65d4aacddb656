"""Timing for benchmarks: check, then time side by side. Ratios hold within one run; machines and neighbours differ."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def arguments(description: str) -> argparse.Namespace:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=30, help="rounds over all candidates")
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one JSON object a line")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser.parse_args()


def medians(
    functions: dict[str, Callable[[], object]], device: str, repeats: int = 30, warmup: int = 3
) -> dict[str, float]:
    """Median seconds of each function, run in turn in every round, so that a disturbance hits all of them alike."""
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    measure = _cuda_seconds if device.startswith("cuda") else _seconds
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(measure(function))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object], calls: int = 10) -> float:
    """Mean of a few calls, queued behind a wait so that the GPU never idles between them."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(2_000_000)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def compiled(function: Callable[..., object]) -> Callable[..., object]:
    """torch.compile's form of a function for one set of shapes: never the eager form, which it falls back to after a few sets."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)


def copy(nbytes: int, device: str) -> Callable[[], object]:
    """Reads half of the bytes and writes the other half: the limit of an operator that moves `nbytes`."""
    source = torch.rand(max(nbytes // 8, 1), device=device)  # zeros can be faster than numbers
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def report(name: str, case: str, nbytes: int, times: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    """Print milliseconds, GB/s and the ratios to "pynas"; returns and stores the ratios."""
    ours = times["pynas"]
    ratios = {other: seconds / ours for other, seconds in times.items() if other != "pynas"}
    shown = "  ".join(
        f"{other} {seconds * 1e3:.3f} ms ({ratios[other]:.2f}x)" for other, seconds in times.items() if other in ratios
    )
    print(f"{name} {case}: {ours * 1e3:.3f} ms, {nbytes / ours / 1e9:.1f} GB/s; {shown}", flush=True)
    if options.json:
        record = {
            "bench": name,
            "case": case,
            "bytes": nbytes,
            "seconds": times,
            "ratios": ratios,
            **machine(options.device),
        }
        with options.json.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return ratios


def machine(device: str) -> dict[str, object]:
    """What the numbers were measured on."""
    from pynas import _C

    name = (
        torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    return {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "instructions": _C.isa()}
