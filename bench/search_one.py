"""One solver on one instance, in a process of its own: python -m bench.search_one SOLVER INSTANCE. Prints one JSON object.

choice: the option of each block, null where it did not finish. build_seconds: making the model from arrays; seconds: the
solver's call alone. Medians of up to 200 models, each built and solved once, within half a second; else one. peak_bytes: most
memory of both above that of the loaded program; of CBC, a program of its own, all that it takes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench._command import command_line, run
from bench._memory import peak_growth
from bench.search_instances import INSTANCES
from bench.search_solvers import SOLVERS, Choice, Solve

ENOUGH_S = 0.5
GRACE_S = 1.0  # a solver that looks at its own limit may be so much late


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("solver", choices=list(SOLVERS))
    parser.add_argument("instance", choices=list(INSTANCES), metavar="INSTANCE")
    parser.add_argument("--limit-s", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.solver, arguments.instance, arguments.limit_s, arguments.threads)))


def measure(name: str, instance_name: str, limit_s: float, threads: int) -> dict[str, object]:
    """One JSON object, as the first lines of this file say."""
    instance, solver = INSTANCES[instance_name](), SOLVERS[name]
    for module in solver.modules:
        importlib.import_module(module)
    calls: list[tuple[float, float, Choice]] = []  # seconds of building and of solving, the choice

    def once() -> None:
        start = time.perf_counter()
        solve = solver.build(instance, limit_s, threads)
        built = time.perf_counter()
        calls.append((built - start, *limited(solve, limit_s)))

    with children_peak() as of_children:
        peak = peak_growth(once)
    start = time.perf_counter() - sum(calls[0][:2])
    while time.perf_counter() - start < ENOUGH_S and len(calls) < 200:
        once()
    rest = calls[1:] or calls  # the first warms up
    return {
        "choice": calls[0][2],
        "build_seconds": statistics.median(call[0] for call in rest),
        "seconds": statistics.median(call[1] for call in rest),
        "peak_bytes": max(peak, *of_children),
    }


def limited(solve: Solve, limit_s: float) -> tuple[float, Choice]:
    """Seconds and result of a call; pynas has no limit of its own, but a signal ends its search."""

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
        choice = solve()
    except TimeoutError:
        choice = None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return time.perf_counter() - start, choice


@contextlib.contextmanager
def children_peak() -> Iterator[list[int]]:
    """Collect the peak memory of every program that this process starts, looked at every 2 ms."""
    found, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.002):
            for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                with contextlib.suppress(OSError, StopIteration):
                    if os.path.samefile(f"/proc/{number}/exe", "/proc/self/exe"):
                        continue  # a copy of this process that is about to become the program
                    lines = Path(f"/proc/{number}/status").read_text().splitlines()
                    found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield found
    finally:
        stop.set()
        watch.join()


if __name__ == "__main__":
    run(main)
