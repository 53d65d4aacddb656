"""Exact search against scipy's MILP solver (HiGHS): equal optima, then times and their ratio.

python -m bench.search [--solvers milp] [--limit-s 40] [INSTANCE ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.sparse
import torch

from bench.search_instances import INSTANCES, Instance
from pynas.search import traverse


def timed(work: Callable[[], object], least_seconds: float = 0.3, least_repeats: int = 3) -> tuple[object, float]:
    """The result and the median time in seconds, after one warm-up."""
    result = work()
    times: list[float] = []
    while len(times) < least_repeats or (sum(times) < least_seconds and len(times) < 200):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def milp(instance: Instance, seconds: float) -> tuple[float | None, float]:
    """The optimum by scipy's MILP, a binary variable per option (None when not finished in time), and the seconds."""
    losses, costs = np.concatenate(instance.losses), np.concatenate(instance.costs)
    block = np.repeat(np.arange(len(instance.losses)), [len(part) for part in instance.losses])
    one_each = scipy.sparse.csr_matrix((np.ones(len(losses)), (block, np.arange(len(losses)))))
    constraints = [
        scipy.optimize.LinearConstraint(one_each, 1, 1),
        scipy.optimize.LinearConstraint(costs.T.astype(float), -np.inf, np.array(instance.limits, float)),
    ]
    start = time.perf_counter()
    answer = scipy.optimize.milp(
        losses, integrality=np.ones(len(losses)), bounds=(0, 1), constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )  # fmt: skip
    spent = time.perf_counter() - start
    if answer.status != 0:
        return None, spent
    chosen = np.flatnonzero(answer.x > 0.5)
    assert (costs[chosen].sum(0) <= np.array(instance.limits)).all()
    return float(losses[chosen].sum()), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="*", metavar="INSTANCE", help=f"of: {', '.join(INSTANCES)} (default: all)")
    parser.add_argument("--solvers", default="milp", help="comma separated: milp; empty for none")
    parser.add_argument("--limit-s", type=float, default=40.0, help="time limit of each solver, seconds")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; times are medians, in ms; ratio = solver / pynas")
    print(f"{'instance':<26}{'space':>9}{'top k':>7}{'pynas':>10}  {'milp':>10}{'ratio':>9}  optimum")
    for name in arguments.instances or INSTANCES:
        instance = INSTANCES[name]()
        found, seconds = timed(lambda i=instance: traverse(i.losses, i.costs, i.limits, i.top_k))
        exponent = np.log10([float(len(part)) for part in instance.losses]).sum()
        line = f"{name:<26}{f'10^{exponent:.1f}':>9}{instance.top_k:>7}{seconds * 1e3:>10.3f}"
        if "milp" in arguments.solvers:
            optimum, spent = milp(instance, arguments.limit_s)
            if optimum is None:
                line += f"  {f'>{spent * 1e3:.0f}':>10}{f'>{spent / seconds:.0f}x':>9}  not finished"
            else:
                assert abs(optimum - found.losses[0]) <= 1e-6 * abs(optimum), (optimum, found.losses[0])
                line += f"  {spent * 1e3:>10.1f}{f'{spent / seconds:.0f}x':>9}  equal"
        print(line, flush=True)


if __name__ == "__main__":
    main()
