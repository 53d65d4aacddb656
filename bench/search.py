"""The exact search beside HiGHS, OR-tools CP-SAT, CBC, SCIP and algorithm 2 as printed: equal optima, seconds, memory.

    python -m bench.search [--solvers pynas,highs,cpsat,cbc,scip] [--limit-s 40] [--json FILE] [INSTANCE ...]
    python -m bench.search own                       # pools as of our spaces
    python -m bench.search "subset sum * R1000"      # knapsacks of the literature (bench/knapsacks.py); --list names all

Each solver runs in a process of its own (bench/search_one.py), on as many threads as torch has. Seconds are those of its call,
without the making of its model from arrays; pynas finds the instance's top k, the others the best. Memory is what model and call
take above the loaded program. Solvers of whole numbers must find equal optima to the last digit, and so must all on the
literature's whole profits; on other losses those that calculate in float64 may be off by their tolerances, 1e-6 of the loss.
Exit status 1: an optimum differs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._command import command_line, run
from bench._timer import machine
from bench.search_instances import INSTANCES, LITERATURE, OWN, Instance
from bench.search_solvers import SOLVERS
from bench.table import milliseconds

# Of a float64 solver's loss on losses that are no small whole numbers.
TOLERANCE = 1e-6
# A solver that does not end at its limit is ended after so many seconds more, with its start and the making of its model.
LATE_S = 180.0
GROUPS = {"own": list(OWN), "literature": list(LITERATURE), "all": list(INSTANCES)}


def alone(solver: str, name: str, limit_s: float) -> dict[str, Any]:
    """Run a solver in a process of its own: its JSON object; no choice where it was ended or failed."""
    command = [sys.executable, "-m", "bench.search_one", solver, name, "--limit-s", str(limit_s),
               "--threads", str(torch.get_num_threads())]  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, failed = process.communicate(timeout=2 * limit_s + LATE_S)
    except subprocess.TimeoutExpired:
        return {"choice": None, "seconds": limit_s, "build_seconds": None, "peak_bytes": None}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        why = failed.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        print(f"{solver} failed on {name}: {why[0]}", flush=True)
        return {"choice": None, "seconds": limit_s, "build_seconds": None, "peak_bytes": None}
    return json.loads(said.splitlines()[-1])


def differing(instance: Instance, choices: dict[str, list[int]]) -> dict[str, str]:
    """Solvers whose answer is not the optimum, and why: of the choices found the best that keeps the limits is the optimum.

    A float64 solver may break a limit, and be better or worse than the optimum, by its tolerance.
    """
    losses = {solver: instance.total(choice) for solver, choice in choices.items()}
    kept = [loss for solver, loss in losses.items() if instance.over(choices[solver]) <= 0]
    wrong = {}
    for solver, loss in losses.items():
        allowed = 0.0 if SOLVERS[solver].exact or instance.unit == 1 else TOLERANCE
        over = instance.over(choices[solver])
        if over > allowed * min(instance.limits):
            wrong[solver] = f"breaks a limit by {over}"
        elif abs(loss - min(kept, default=loss)) > allowed * abs(loss):
            wrong[solver] = f"loss {loss * instance.unit!r}, the best is {min(kept) * instance.unit!r}"
    return wrong


def measure(name: str, solvers: list[str], limit_s: float) -> dict[str, Any]:
    """All solvers on one instance: seconds and bytes by solver, those that finished, those whose optimum differs."""
    instance = INSTANCES[name]()
    answers = {solver: alone(solver, name, limit_s) for solver in solvers}
    choices = {solver: answer["choice"] for solver, answer in answers.items() if answer["choice"] is not None}
    wrong = differing(instance, choices)
    record: dict[str, Any] = {"instance": name, "top_k": instance.top_k}
    record["space_log10"] = round(sum(float(np.log10(len(block))) for block in instance.whole), 1)
    for key in ("seconds", "build_seconds", "peak_bytes"):
        record[key] = {solver: answer[key] for solver, answer in answers.items()}
    return {**record, "equal": [solver for solver in choices if solver not in wrong], "wrong": wrong}


def line(record: dict[str, Any]) -> str:
    """One instance: milliseconds, the ratio to pynas and memory of each; `>` where a solver did not finish."""
    parts, seconds = [], record["seconds"]
    for solver, spent in seconds.items():
        finished = solver in record["equal"] or solver in record["wrong"]
        more = "" if finished else ">"
        text = f"{solver} {more}{milliseconds(spent)}"
        if solver != "pynas" and "pynas" in record["equal"]:
            ratio = spent / seconds["pynas"]
            text += f" ({more}{ratio:.3g}x)" if ratio < 1000 else f" ({more}{ratio:,.0f}x)"
        if record["peak_bytes"][solver] is not None:
            text += f" {record['peak_bytes'][solver] / 1e6:.1f} MB"
        parts.append(text + (f" WRONG: {record['wrong'][solver]}" if solver in record["wrong"] else ""))
    return f"{record['instance']} (10^{record['space_log10']}, top {record['top_k']}): {'; '.join(parts)}"


def not_fastest(record: dict[str, Any]) -> str:
    """Which solver was faster than pynas; empty where none was."""
    times = {solver: record["seconds"][solver] for solver in record["equal"]}
    best = min(times, key=times.__getitem__, default="pynas")
    return "" if best == "pynas" else f"{record['instance']}: {best} {milliseconds(times[best])}"


def chosen_instances(patterns: list[str]) -> list[str]:
    """Names of the instances that groups, names and patterns mean, once each.

    Raises:
        ValueError: a pattern that no instance fits.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        found = GROUPS.get(pattern) or [name for name in INSTANCES if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(
                f"expected instances, {', '.join(GROUPS)}, or a pattern, got {pattern!r}; --list names them"
            )
        names |= dict.fromkeys(found)
    return list(names)


def installed_solvers(asked: str | None) -> list[str]:
    """Solvers asked for, default all; those whose package is missing are left out, with a line.

    Raises:
        ValueError: an unknown name.
    """
    here = [name for name in SOLVERS if name != "pynas-cuda" or torch.cuda.is_available()]
    solvers = [name for name in asked.split(",") if name] if asked else here
    if unknown := [name for name in solvers if name not in SOLVERS]:
        raise ValueError(f"expected solvers of {', '.join(SOLVERS)}, got {', '.join(unknown)}")
    missing = {name: SOLVERS[name].package for name in solvers if not importlib.util.find_spec(SOLVERS[name].package)}
    for name, package in missing.items():
        print(f"{name} is not installed: left out (pip install {package})", flush=True)
    return [name for name in solvers if name not in missing]


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("instances", nargs="*", metavar="INSTANCE", default=["own"], help="default: own")
    parser.add_argument("--list", action="store_true", help="name all instances, run nothing")
    parser.add_argument("--solvers", help=f"of {','.join(SOLVERS)} (default: all installed)")
    parser.add_argument("--limit-s", type=float, default=40.0, help="time limit of each solver, seconds")
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one JSON object a line")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(INSTANCES))
        return
    try:
        names, solvers = chosen_instances(arguments.instances), installed_solvers(arguments.solvers)
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{torch.get_num_threads()} threads; > did not finish in {arguments.limit_s:g} s; (Nx: N times as long as pynas)"
    )
    records = []
    for name in names:
        records.append(record := measure(name, solvers, arguments.limit_s))
        print(line(record), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps({"bench": "search", **record, **machine("cpu")}) + "\n")
    slower = [text for record in records if (text := not_fastest(record))]
    print(f"pynas is the fastest on {len(records) - len(slower)} of {len(records)}", *slower, sep="\n  ")
    raise SystemExit(1 if any(record["wrong"] for record in records) else 0)


if __name__ == "__main__":
    run(main)
