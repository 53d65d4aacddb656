"""Timing for benchmarks: check, then time side by side. Ratios hold within one run; machines and neighbours differ."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from bench._command import command_line, device
from bench._memory import peak_growth

Case = TypeVar("Case")


def arguments(file: str, description: str | None, cases: Sequence[str] = ()) -> argparse.Namespace:
    """The command line of the kernels' benchmarks, with `--case` where there are cases to choose from."""
    parser = command_line(file, description)
    if cases:
        parser.add_argument("--case", choices=cases, nargs="+", default=cases, help="default: all")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=30, help="rounds over all candidates")
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one JSON object a line")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--short", action="store_true", help="the first cases, few rounds, no torch.compile")
    options = parser.parse_args()
    if options.short:
        options.repeats, options.no_compile = min(options.repeats, 10), True
    if not options.no_compile and (why := _compile_fails(options.device)):
        print(f"torch.compile is left out, it does not work here: {why}", flush=True)
        options.no_compile = True
    return options


def _compile_fails(device: str) -> str:
    """Why torch.compile does not work, as without a compiler or the header Python.h, in one line; empty where it does."""
    try:
        compiled(torch.sin)(torch.ones(2, device=device))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if "rror" in line), lines[0] if lines else type(error).__name__)[:300]
    return ""


def some(cases: Sequence[Case], options: argparse.Namespace) -> Sequence[Case]:
    """All cases, or the first two with --short."""
    return cases[:2] if options.short else cases


def medians(
    functions: dict[str, Callable[[], object]], device: str, repeats: int = 30, warmup: int = 3, waits: bool = False
) -> dict[str, float]:
    """Median seconds of each function, run in turn in every round, so that a disturbance hits all of them alike.

    waits: each call waits for the device by itself, and is timed by the host's clock.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    measure = _cuda_seconds if device.startswith("cuda") and not waits else _seconds
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(measure(function))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def host_seconds(function: Callable[[], object], calls: int = 10) -> float:
    """Mean time that a call takes of the host, while the GPU is behind."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _cuda_seconds(function: Callable[[], object]) -> float:
    """Mean of a few calls, queued behind a wait for as long as the host needs, so that the GPU never idles between them."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    host = host_seconds(function, 1)
    calls = 10 if host < 5e-3 else 1
    torch.cuda._sleep(int(2e9 * (1e-3 + 2 * calls * min(host, 5e-3))))
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


def report(
    name: str,
    case: str,
    nbytes: int,
    functions: dict[str, Callable[[], object]],
    options: argparse.Namespace,
    warmup: int = 3,
    waits: bool = False,
) -> dict[str, float]:
    """Time the functions; print and store milliseconds, GB/s, ratios to "pynas" and peak bytes; returns the seconds of each.

    On a GPU these are its own times, and those of the host stand beside them, unless each call waits for the GPU by itself.
    """
    times = medians(functions, options.device, options.repeats, warmup, waits)
    ours = times["pynas"]
    ratios = {other: seconds / ours for other, seconds in times.items() if other != "pynas"}
    peaks = {other: peak_growth(function, options.device) for other, function in functions.items()}
    shown = "  ".join(
        f"{other} {times[other] * 1e3:.3f} ms ({ratio:.2f}x, {peaks[other] / 1e6:.1f} MB)"
        for other, ratio in ratios.items()
    )
    on_gpu = options.device.startswith("cuda") and not waits
    host = {other: host_seconds(function, 3) for other, function in functions.items()} if on_gpu else {}
    of_host = f", host {host['pynas'] * 1e6:.0f} us a call" if host else ""
    speed = f"{nbytes / ours / 1e9:.1f} GB/s, {peaks['pynas'] / 1e6:.1f} MB"
    print(f"{name} {case}: {ours * 1e3:.3f} ms, {speed}{of_host}; {shown}", flush=True)
    if options.json:
        record = {
            "bench": name,
            "case": case,
            "bytes": nbytes,
            "seconds": times,
            "host_seconds": host,
            "ratios": ratios,
            "peak_bytes": peaks,
            **machine(options.device),
        }
        with options.json.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return times


def machine(device: str) -> dict[str, object]:
    """What the numbers were measured on."""
    from pynas import _C

    name = (
        torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    return {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "instructions": _C.isa()}
