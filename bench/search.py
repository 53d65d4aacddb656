"""Exact search against algorithm 2 as printed, scipy's MILP (HiGHS) and OR-tools CP-SAT: equal optima, then times.

python -m bench.search [--solvers algorithm2,milp,cpsat] [--limit-s 40] [--device cuda] [--json FILE] [INSTANCE ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse
import torch

from bench._timer import machine
from bench.algorithm_2 import algorithm_2
from bench.search_instances import INSTANCES, Instance
from pynas.search import Traversal, traverse

# A solver gives the best loss, or None when it did not finish in `seconds` or does not know such an instance.
Solver = Callable[[Instance, float], float | None]


def by_algorithm_2(instance: Instance, seconds: float) -> float | None:
    """Algorithm 2 as printed knows one limit."""
    choice, finished = algorithm_2(
        instance.losses, [cost[:, 0] for cost in instance.costs], instance.limits[0], seconds
    )
    if not finished or choice is None or len(instance.limits) > 1:
        return None
    return float(sum(block[i] for block, i in zip(instance.losses, choice)))


def by_milp(instance: Instance, seconds: float) -> float | None:
    """A binary variable per option."""
    losses, costs = np.concatenate(instance.losses), np.concatenate(instance.costs)
    block = np.repeat(np.arange(len(instance.losses)), [len(part) for part in instance.losses])
    one_each = scipy.sparse.csr_matrix((np.ones(len(losses)), (block, np.arange(len(losses)))))
    constraints = [
        scipy.optimize.LinearConstraint(one_each, 1, 1),
        scipy.optimize.LinearConstraint(costs.T.astype(float), -np.inf, np.array(instance.limits, float)),
    ]
    options = {"time_limit": seconds, "mip_rel_gap": 0.0}
    answer = scipy.optimize.milp(
        losses, integrality=np.ones(len(losses)), bounds=(0, 1), constraints=constraints, options=options
    )
    return float(losses[np.flatnonzero(answer.x > 0.5)].sum()) if answer.status == 0 else None


def by_cp_sat(instance: Instance, seconds: float) -> float | None:
    """A Boolean per option; CP-SAT wants integers, so losses are multiples of 2**-40 of their range."""
    from ortools.sat.python import cp_model

    unit = 2.0**-40 * max(float(np.ptp(block)) for block in instance.losses)
    model = cp_model.CpModel()
    chosen = [[model.new_bool_var("") for _ in block] for block in instance.losses]
    for block in chosen:
        model.add_exactly_one(block)
    every = [variable for block in chosen for variable in block]
    costs = np.concatenate(instance.costs)
    for d, limit in enumerate(instance.limits):
        model.add(cp_model.LinearExpr.weighted_sum(every, costs[:, d].tolist()) <= int(limit))
    whole = np.concatenate([np.rint((block - block.min()) / unit).astype(np.int64) for block in instance.losses])
    model.minimize(cp_model.LinearExpr.weighted_sum(every, whole.tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = torch.get_num_threads()
    if solver.solve(model) != cp_model.OPTIMAL:
        return None
    picked = [next(i for i, variable in enumerate(block) if solver.value(variable)) for block in chosen]
    return float(sum(block[i] for block, i in zip(instance.losses, picked)))


SOLVERS: dict[str, Solver] = {"algorithm2": by_algorithm_2, "milp": by_milp, "cpsat": by_cp_sat}


def timed(work: Callable[[], Traversal], least_seconds: float = 0.3, least_repeats: int = 5) -> tuple[Traversal, float]:
    """The result and the median time in seconds, after one warm-up."""
    result = work()
    times: list[float] = []
    while len(times) < least_repeats or (sum(times) < least_seconds and len(times) < 200):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def measure(name: str, solvers: list[str], limit_s: float, device: str) -> dict[str, object]:
    """Times of all on one instance, in seconds; every solver that finishes must find an equal optimum, the CPU the same choices."""
    instance = INSTANCES[name]()

    def work(device: str) -> Traversal:
        return traverse(instance.losses, instance.costs, instance.limits, instance.top_k, device=device)

    found, seconds = timed(lambda: work(device))
    if device != "cpu":
        assert np.array_equal(found.indices, work("cpu").indices), name
    found.verify()
    record: dict[str, object] = {"instance": name, "top_k": instance.top_k, "seconds": {"pynas": seconds}, "equal": []}
    record["space_log10"] = round(sum(float(np.log10(len(block))) for block in instance.losses), 1)
    for solver in solvers:
        start = time.perf_counter()
        optimum = SOLVERS[solver](instance, limit_s)
        record["seconds"][solver] = time.perf_counter() - start  # type: ignore[index]
        if optimum is not None:
            assert abs(optimum - found.losses[0]) <= 1e-6 * abs(optimum), (solver, optimum, found.losses[0])
            record["equal"].append(solver)  # type: ignore[attr-defined]
    record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return record


def line(record: dict, solvers: list[str]) -> str:
    """One line of the table; `>` where a solver did not finish."""
    ours = record["seconds"]["pynas"]
    text = f"{record['instance']:<32}{'10^' + str(record['space_log10']):>9}{record['top_k']:>7}{ours * 1e3:>10.3f}"
    for solver in solvers:
        spent = record["seconds"][solver]
        more = "" if solver in record["equal"] else ">"
        text += f"{f'{more}{spent * 1e3:.0f}':>12}{f'{more}{spent / ours:.0f}x':>10}"
    return text + f"{record['peak_mb']:>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="*", metavar="INSTANCE", help=f"of: {', '.join(INSTANCES)} (default: all)")
    every = [name for name in SOLVERS if name != "cpsat" or importlib.util.find_spec("ortools")]
    parser.add_argument("--solvers", default=",".join(every), help="comma separated (default: all installed)")
    parser.add_argument("--limit-s", type=float, default=40.0, help="time limit of each solver, seconds")
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one JSON object a line")
    parser.add_argument("--device", default="cpu", help="of pynas: cpu or cuda")
    arguments = parser.parse_args()
    solvers = [name for name in arguments.solvers.split(",") if name]
    print(f"{torch.get_num_threads()} threads; milliseconds (median for pynas), and the ratio to pynas; > not finished")
    columns = "".join(f"{name:>12}{'ratio':>10}" for name in solvers)
    print(f"{'instance':<32}{'space':>9}{'top k':>7}{'pynas':>10}{columns}{'peak MB':>9}")
    for name in arguments.instances or INSTANCES:
        record = measure(name, solvers, arguments.limit_s, arguments.device)
        print(line(record, solvers), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps({"bench": "search", **record, **machine(arguments.device)}) + "\n")


if __name__ == "__main__":
    main()
