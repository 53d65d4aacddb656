"""Agreement of the scores of several runs of a method, with other seeds or with less data (DNA, tables 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pynas import search
from pynas.costs import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores
from pynas.spaces import Architecture, Space


@dataclass(frozen=True)
class Agreement:
    """Agreement of one run with the reference, the first run.

    tau: Kendall's tau between the total scores of the sampled architectures; NaN where all scores are equal.
    block_tau: Kendall's tau between the path scores of each block; empty where whole networks were scored.
    found: the run's best architecture under the limits.
    same_choices: number of blocks in which that architecture agrees with the reference's.
    better_share: share of the sampled architectures that this run scores better than the reference's best.
    accuracy_tau: Kendall's tau between the total scores and accuracies of trained architectures; None without any.
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
    """Agreement of every run with the first.

    tau: Kendall's tau between the totals of runs i and j, `tau[i][j]`. totals: total scores, `[runs, sample]`.
    """

    runs: tuple[Agreement, ...]
    tau: tuple[tuple[float, ...], ...]
    totals: np.ndarray


def compare_runs(
    runs: Mapping[str, Scores],
    costs: Costs,
    limits: Mapping[str, float],
    sample: int = 1000,
    truth: Mapping[Architecture, float] | None = None,
) -> Robustness:
    """Compare the scores of runs on one space; the first run is the reference.

    sample: number of architectures, drawn uniformly with a fixed seed, whose total scores are ranked.
    truth: accuracies of trained architectures.

    Raises:
        InputError: no runs, a sample of fewer than two, or scores of different spaces.
        InfeasibleError: no architecture keeps the limits.
    """
    if not runs or sample < 2:
        raise InputError(f"[robustness] expected runs, and a sample of at least 2, got {len(runs)} and {sample}")
    scores = [Scores.check("robustness", each) for each in runs.values()]
    names = {each.space.name for each in scores}
    if len(names) > 1:
        raise InputError(f"[robustness] expected scores of one space, got {', '.join(sorted(names))}")
    space = scores[0].space
    totals, tau = sampled_totals(scores, sample)
    bests = [search.best(each, costs, limits)[0].architecture for each in scores]
    agreements = [
        Agreement(
            name,
            tau[0][i],
            tuple(_block_tau(scores[0], scores[i], b) for b in range(len(space))),
            space.format(bests[i]),
            sum(a == b for a, b in zip(bests[0], bests[i])),
            float((totals[i] < scores[i].of(bests[0])).mean()),
            # Positive where better scores go with higher accuracies.
            None if truth is None else _tau(-scores[i].total(truth), np.array(list(truth.values()))),
        )
        for i, name in enumerate(runs)
    ]
    return Robustness(tuple(agreements), tau, totals)


def compare_networks(
    space: Space,
    drawn: Sequence[Architecture],
    runs: Mapping[str, np.ndarray],
    costs: Costs,
    limits: Mapping[str, float],
    truth: Mapping[Architecture, float] | None = None,
) -> Robustness:
    """Compare runs by their scores of whole networks; the first is the reference, and a run finds the best of those drawn.

    drawn: networks of which the first scores of each run are. runs: scores `[drawn + truth]` by name, lower is better.
    truth: accuracies of trained architectures.

    Raises:
        InputError: no runs, or fewer than two networks.
        InfeasibleError: none of the drawn networks keeps the limits.
    """
    if not runs or len(drawn) < 2:
        raise InputError(f"[robustness] expected runs, and at least 2 networks, got {len(runs)} and {len(drawn)}")
    values = np.array(list(runs.values()))
    totals, others = values[:, : len(drawn)], values[:, len(drawn) :]
    spent = [costs.of(architecture) for architecture in drawn]
    inside = np.array([all(each[name] <= most for name, most in limits.items()) for each in spent])
    if not inside.any():
        raise InfeasibleError(
            f"[robustness] expected limits that one of the {len(drawn)} drawn networks keeps, got {dict(limits)}"
        )
    bests = [int(np.where(inside, row, np.inf).argmin()) for row in totals]
    tau = tuple(tuple(_tau(one, other) for other in totals) for one in totals)
    agreements = [
        Agreement(
            name,
            tau[0][i],
            (),
            space.format(drawn[bests[i]]),
            sum(a == b for a, b in zip(drawn[bests[0]], drawn[bests[i]])),
            float((totals[i] < totals[i][bests[0]]).mean()),
            None if truth is None else _tau(-others[i], np.array(list(truth.values()))),
        )
        for i, name in enumerate(runs)
    ]
    return Robustness(tuple(agreements), tau, totals)


def sampled_totals(scores: Sequence[Scores], sample: int = 1000) -> tuple[np.ndarray, tuple[tuple[float, ...], ...]]:
    """Return total scores of architectures drawn uniformly with a fixed seed, and Kendall's tau of every two scores.

    scores: of one space. The totals are `[scores, architectures]`, of the drawn ones that all have rated.
    """
    space, rng = scores[0].space, np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(sample)]
    totals = np.array([each.total(drawn) for each in scores])
    totals = totals[:, ~np.isnan(totals).any(axis=0)]
    return totals, tuple(tuple(_tau(one, other) for other in totals) for one in totals)


def _block_tau(one: Scores, other: Scores, block: int) -> float:
    return _tau(*(np.concatenate([table.rated()[1] for table in scores[block]]) for scores in (one, other)))


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's tau; NaN where all values of one are equal."""
    if min(len(np.unique(one)), len(np.unique(other))) < 2:
        return float("nan")
    return float(stats.kendalltau(one, other).statistic)
