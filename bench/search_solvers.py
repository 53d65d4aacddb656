"""Solvers of multiple-choice knapsacks: each makes its model of an instance, and returns the call that solves it.

The call returns the option of each block, or None where it did not finish within the time. Gaps are 0: the answer is proven.
Those that calculate in float64 (milp, highs, cbc, scip) keep rows and whole numbers to tolerances of 1e-9 to 1e-6, so that on
losses that are no small whole numbers their answer may be that near to the best one.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.search_instances import Instance

Choice = list[int] | None
Solve = Callable[[], Choice]


@dataclass(frozen=True)
class Solver:
    """build(instance, seconds, threads) -> solve; the modules it imports, its package; whether it calculates in whole numbers."""

    build: Callable[[Instance, float, int], Solve]
    modules: tuple[str, ...]
    package: str
    exact: bool


@dataclass(frozen=True)
class Table:
    """An instance as one row per option: the loss less its block's least, in losses and in units, costs `[N, m]`, its block."""

    loss: np.ndarray
    whole: np.ndarray
    cost: np.ndarray
    block: np.ndarray

    @classmethod
    def of(cls, instance: Instance) -> Table:
        whole = np.concatenate([block - block.min() for block in instance.whole])
        block = np.repeat(np.arange(len(instance.whole)), [len(part) for part in instance.whole])
        return cls(whole * instance.unit, whole, np.concatenate(instance.costs), block)

    def choice(self, values: np.ndarray) -> list[int]:
        """The option of each block whose variable is the greatest."""
        starts = np.searchsorted(self.block, np.arange(self.block[-1] + 2))
        return [int(np.argmax(values[start:stop])) for start, stop in pairwise(starts)]

    def matrix(self):
        """Rows of the model, sparse: one option of each block, then the limits."""
        import scipy.sparse

        ones = scipy.sparse.csc_matrix((np.ones(len(self.block)), (self.block, np.arange(len(self.block)))))
        return scipy.sparse.vstack([ones, scipy.sparse.csc_matrix(self.cost.T.astype(float))], format="csc")


def pynas(instance: Instance, seconds: float, threads: int, device: str = "cpu") -> Solve:
    """The search of this project, of the instance's top_k."""
    import torch

    from pynas.search import traverse

    torch.set_num_threads(threads)
    losses = instance.losses
    return lambda: traverse(losses, instance.costs, instance.limits, instance.top_k, device=device).indices[0].tolist()


def algorithm_2(instance: Instance, seconds: float, threads: int) -> Solve:
    """DNA's algorithm 2 as printed: one limit."""
    from bench.algorithm_2 import algorithm_2

    def solve() -> Choice:
        if len(instance.limits) > 1:
            return None
        choice, finished = algorithm_2(
            instance.whole, [cost[:, 0] for cost in instance.costs], instance.limits[0], seconds
        )
        return choice if finished else None

    return solve


def milp(instance: Instance, seconds: float, threads: int) -> Solve:
    """The HiGHS in scipy; it chooses its threads."""
    import scipy.optimize

    table, blocks = Table.of(instance), len(instance.whole)
    least = np.r_[np.ones(blocks), np.full(len(instance.limits), -np.inf)]
    rows = scipy.optimize.LinearConstraint(table.matrix(), least, np.r_[np.ones(blocks), instance.limits])
    options = {"time_limit": seconds, "mip_rel_gap": 0.0}

    def solve() -> Choice:
        answer = scipy.optimize.milp(table.loss, integrality=1, bounds=(0, 1), constraints=rows, options=options)
        return table.choice(answer.x) if answer.status == 0 else None

    return solve


def highs(instance: Instance, seconds: float, threads: int) -> Solve:
    """HiGHS by its own interface."""
    import highspy

    table, blocks, matrix = Table.of(instance), len(instance.whole), Table.of(instance).matrix()
    model, count = highspy.HighsLp(), len(table.loss)
    model.num_col_, model.num_row_ = count, matrix.shape[0]
    model.col_cost_, model.col_lower_, model.col_upper_ = table.loss, np.zeros(count), np.ones(count)
    model.row_lower_ = np.r_[np.ones(blocks), np.full(len(instance.limits), -highspy.kHighsInf)]
    model.row_upper_ = np.r_[np.ones(blocks), instance.limits]
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
    model.a_matrix_.value_ = matrix.data
    model.integrality_ = [highspy.HighsVarType.kInteger] * count
    solver = highspy.Highs()
    options = {"output_flag": False, "time_limit": seconds, "threads": threads, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0}
    for name, value in options.items():
        solver.setOptionValue(name, value)
    solver.passModel(model)

    def solve() -> Choice:
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        return table.choice(np.array(solver.getSolution().col_value))

    return solve


def cp_sat(instance: Instance, seconds: float, threads: int) -> Solve:
    """OR-tools' CP-SAT, a Boolean per option, in whole numbers."""
    from ortools.sat.python import cp_model

    table, model = Table.of(instance), cp_model.CpModel()
    chosen = [[model.new_bool_var("") for _ in block] for block in instance.whole]
    for block in chosen:
        model.add_exactly_one(block)
    every = [variable for block in chosen for variable in block]
    for d, limit in enumerate(instance.limits):
        model.add(cp_model.LinearExpr.weighted_sum(every, table.cost[:, d].tolist()) <= limit)
    model.minimize(cp_model.LinearExpr.weighted_sum(every, table.whole.tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers = seconds, threads
    solver.parameters.relative_gap_limit = solver.parameters.absolute_gap_limit = 0.0

    def solve() -> Choice:
        if solver.solve(model) != cp_model.OPTIMAL:
            return None
        return table.choice(np.array([solver.value(variable) for variable in every]))

    return solve


def write_mps(table: Table, limits: list[int], path: Path) -> None:
    """Write the model in MPS's free form, every float to the last digit; CBC takes it from a file only."""
    blocks = int(table.block[-1]) + 1
    lines = ["NAME model FREE", "ROWS", " N loss", *(f" E b{b}" for b in range(blocks))]
    lines += [*(f" L l{d}" for d in range(len(limits))), "COLUMNS", " m 'MARKER' 'INTORG'"]
    for i, (loss, block, costs) in enumerate(zip(table.loss.tolist(), table.block.tolist(), table.cost.tolist())):
        lines += [f" x{i} loss {loss!r} b{block} 1", *(f" x{i} l{d} {cost}" for d, cost in enumerate(costs))]
    lines += [" m 'MARKER' 'INTEND'", "RHS", *(f" r b{b} 1" for b in range(blocks))]
    lines += [*(f" r l{d} {limit}" for d, limit in enumerate(limits)), "BOUNDS"]
    path.write_text("\n".join([*lines, *(f" UP b x{i} 1" for i in range(len(table.loss))), "ENDATA", ""]))


def released_cbc(instance: Instance, seconds: float, threads: int) -> Solve:
    """CBC 2.10.3, which comes with PuLP before its version 4."""
    import pulp

    return cbc(pulp.PULP_CBC_CMD.pulp_cbc_path, instance, seconds, threads)


def newest_cbc(instance: Instance, seconds: float, threads: int) -> Solve:
    """CBC of its development branch, not always the faster one."""
    import cbcbox

    return cbc(cbcbox.cbc_bin_path(), instance, seconds, threads)


def cbc(program: str, instance: Instance, seconds: float, threads: int) -> Solve:
    """CBC, a program of its own, from a file written beforehand."""
    table, folder = Table.of(instance), tempfile.TemporaryDirectory()
    write_mps(table, instance.limits, Path(folder.name, "model.mps"))
    words = [program, "model.mps", "-sec", str(seconds), "-timeMode", "elapsed", "-threads", str(threads),
             "-ratio", "0", "-allow", "0", "-solve", "-solution", "solution"]  # fmt: skip

    def solve() -> Choice:
        with folder:
            subprocess.run(words, cwd=folder.name, stdout=subprocess.DEVNULL, check=True)
            status, *lines = Path(folder.name, "solution").read_text().splitlines()
        values = np.zeros(len(table.loss))
        for _, name, value, *_ in map(str.split, lines):  # those that are not 0
            values[int(name.removeprefix("x"))] = float(value)
        return table.choice(values) if status.startswith("Optimal") else None

    return solve


def scip(instance: Instance, seconds: float, threads: int) -> Solve:
    """SCIP, on one thread."""
    import pyscipopt

    table, model = Table.of(instance), pyscipopt.Model()
    model.hideOutput()
    model.setParams({"limits/time": seconds, "limits/gap": 0.0, "limits/absgap": 0.0})
    every = [model.addVar(vtype="B", obj=loss) for loss in table.loss.tolist()]
    starts = np.searchsorted(table.block, np.arange(len(instance.whole) + 1))
    for start, stop in pairwise(starts):
        model.addCons(pyscipopt.quicksum(every[start:stop]) == 1)
    for d, limit in enumerate(instance.limits):
        costs = table.cost[:, d].tolist()
        model.addCons(pyscipopt.quicksum(cost * variable for cost, variable in zip(costs, every)) <= limit)

    def solve() -> Choice:
        model.optimize()
        if model.getStatus() != "optimal":
            return None
        return table.choice(np.array([model.getVal(variable) for variable in every]))

    return solve


SOLVERS = {
    "pynas": Solver(pynas, ("torch", "pynas.search"), "torch", True),
    "pynas-cuda": Solver(functools.partial(pynas, device="cuda"), ("torch", "pynas.search"), "torch", True),
    "algorithm2": Solver(algorithm_2, ("numpy",), "numpy", True),
    "milp": Solver(milp, ("scipy.optimize", "scipy.sparse"), "scipy", False),
    "highs": Solver(highs, ("highspy", "scipy.sparse"), "highspy", False),
    "cpsat": Solver(cp_sat, ("ortools.sat.python.cp_model",), "ortools", True),
    "cbc": Solver(released_cbc, ("pulp",), "pulp", False),
    "cbc-next": Solver(newest_cbc, ("cbcbox",), "cbcbox", False),
    "scip": Solver(scip, ("pyscipopt",), "pyscipopt", False),
}
