"""How alike the ratings of several runs are: the same method with other seeds, or with less data (DNA, tables 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pynas import search
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import ScoreTable
from pynas.spaces import Architecture, Space

Tables = Sequence[Sequence[ScoreTable]]


@dataclass(frozen=True)
class Agreement:
    """One run beside the reference, which is the first.

    tau: Kendall's tau of the total scores of the same architectures; block_tau: of the path scores of each block. NaN
    where all scores are equal. found: the run's best architecture under the limits. same_choices: in how many blocks it
    is the reference's. better_share: the share of architectures that this run scores better than the reference's best.
    accuracy_tau: of the total scores of trained architectures with their accuracies, where there are any.
    """

    name: str
    tau: float
    block_tau: tuple[float, ...]
    found: str
    same_choices: int
    better_share: float
    accuracy_tau: float | None = None


@dataclass(frozen=True)
class Robustness:
    """Runs compared: each with the first, all totals with each other (`tau[i][j]`), and the totals `[runs, sample]`."""

    runs: tuple[Agreement, ...]
    tau: tuple[tuple[float, ...], ...]
    totals: np.ndarray


def compare_runs(
    runs: Mapping[str, Tables],
    space: Space,
    costs: Costs,
    limits: Mapping[str, float],
    sample: int = 1000,
    truth: Mapping[Architecture, float] | None = None,
) -> Robustness:
    """Compare the ratings of one space, the first run being the reference.

    sample: architectures, drawn uniformly with a fixed seed, whose total scores (sums over the blocks) are ranked.
    truth: accuracies of trained architectures.

    Raises:
        InputError: no runs, a sample of fewer than two, or tables of another space.
        InfeasibleError: no architecture keeps the limits.
    """
    if not runs or sample < 2:
        raise InputError(f"[robustness] expected runs, and a sample of at least 2, got {len(runs)} and {sample}")
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(sample)]
    totals = np.array([[_total(tables, architecture) for architecture in drawn] for tables in runs.values()])
    states = search.states_of(space)
    found = [search.best(tables, costs, limits, states=states)[0].architecture for tables in runs.values()]
    tau = tuple(tuple(_tau(one, other) for other in totals) for one in totals)
    reference = next(iter(runs.values()))
    agreements = [
        Agreement(
            name,
            tau[0][i],
            tuple(_tau(_scores(a), _scores(b)) for a, b in zip(reference, tables, strict=True)),
            space.format(found[i]),
            sum(a == b for a, b in zip(found[0], found[i])),
            float((totals[i] < _total(tables, found[0])).mean()),
            None if truth is None else _accuracy_tau(tables, truth),
        )
        for i, (name, tables) in enumerate(runs.items())
    ]
    return Robustness(tuple(agreements), tau, totals)


def _accuracy_tau(tables: Tables, truth: Mapping[Architecture, float]) -> float:
    """Positive where better scores go with higher accuracies."""
    return _tau(np.array([-_total(tables, architecture) for architecture in truth]), np.array(list(truth.values())))


def _total(tables: Tables, architecture: Architecture) -> float:
    return sum(tables[b][choice.cell][choice.path] for b, choice in enumerate(architecture))


def _scores(cells: Sequence[ScoreTable]) -> np.ndarray:
    return np.concatenate([table.rated()[1] for table in cells])


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    if min(len(np.unique(one)), len(np.unique(other))) < 2:
        return float("nan")
    return float(stats.kendalltau(one, other).statistic)
