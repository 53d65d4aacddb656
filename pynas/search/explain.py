"""Reasons why a search did not choose an architecture: broken limits, its rank, its blocks, and what beats it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.best import found_by
from pynas.search.pools import Entry, Pools, WholeCosts
from pynas.search.problem import Limit, Problem
from pynas.search.rules import Allowed, Rules
from pynas.search.traverse import run
from pynas.spaces import Architecture, Choice

# Better architectures up to which they are counted.
COUNTED = 10_000


@dataclass(frozen=True)
class BrokenLimit:
    """A limit that an architecture breaks. side: "limits" for an upper one, "at_least" for a lower one."""

    cost: str
    side: str
    limit: float
    value: float


@dataclass(frozen=True)
class BlockRank:
    """An architecture's choice in a block among the rated ones: its term of the joined score (of a product its logarithm).

    best, best_score: the least there, whatever it costs. rank: 1 for the least term; equal ones share a rank. paths: rated ones.
    """

    choice: Choice
    score: float
    best: Choice
    best_score: float
    rank: int
    paths: int


@dataclass(frozen=True)
class Explanation:
    """How an architecture stands in a search.

    entry: its score and costs. best: what the search finds. broken: limits that it breaks. rules: those that it breaks, as text.
    better: architectures within limits and rules that have a smaller score, counted up to 10,000; counted: whether these are
    all. Its rank, where it breaks nothing, is better + 1.
    compared: the limited costs, or all that add up where none is limited. beaten_by: the best architecture that has no more of
    each (no less of those with a lower limit only), keeps the rules, and has a smaller score, or an equal one and less of a cost;
    None: there is none, and the architecture is on the front of score and these costs.
    """

    entry: Entry
    best: Entry
    broken: tuple[BrokenLimit, ...]
    rules: tuple[str, ...]
    better: int
    counted: bool
    blocks: tuple[BlockRank, ...]
    compared: tuple[str, ...]
    beaten_by: Entry | None


def explain(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    architecture: Architecture | str,
    limits: Mapping[str, Any] | None = None,
    *,
    at_least: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    allowed: Allowed | None = None,
    device: str | None = None,
) -> Explanation:
    """Say how an architecture stands among all others in a search, by further exact searches.

    architecture: of the scores' space, also as text. Other arguments, and what is raised: as in `best`.

    Raises:
        InputError: as `best`, or an architecture outside the space or with a path that was not rated.
    """
    pools = Pools("explain", scores, costs)
    chosen = pools.space.resolve(architecture)
    problem = pools.problem(limits, at_least, weights, join, device)
    row = _row(pools, chosen)
    entry = found_entry(pools, problem, row, join)
    within = Pools("explain", scores, costs, allowed)
    searched = within.problem(limits, at_least, weights, join, device)
    best, better, counted = _better(within, searched, entry.score, join)
    rules = tuple(str(rule) for rule in allowed.broken(chosen)) if isinstance(allowed, Rules) else ()
    compared = [limit.name for limit in searched.limits if _upper(limit) is not None or limit.lower is not None]
    names = tuple(compared or within.names)
    return Explanation(
        entry,
        best,
        tuple(_broken(problem, entry)),
        rules,
        better,
        counted,
        tuple(_blocks(pools, problem, row)),
        names,
        _beaten(within, searched, entry, names, join),
    )


def found_entry(pools: Pools, problem: Problem, row: np.ndarray, join: str) -> Entry:
    """Return the entry of one row per block, `[B]`."""
    loss = float(problem.grid.total(problem.losses[row].sum()))
    totals = [column.total(row).item() for column in problem.columns]
    return pools.entry(row - pools.offsets[:-1], math.exp(loss) if join == "product" else loss, totals)


def _row(pools: Pools, architecture: Architecture) -> np.ndarray:
    """Return the rows of an architecture's choices, one per block, `[B]`."""
    rows = []
    for b, choice in enumerate(architecture):
        before = sum(map(len, pools.paths[b][: choice.cell]))
        at = np.flatnonzero((pools.paths[b][choice.cell] == np.array(choice.path)).all(1))
        if len(at) == 0:
            raise InputError(f"[explain] expected an architecture of rated paths, got {pools.space.format(architecture)}, whose "
                             f"path in block {b} has no score: no search finds it; rate that path")  # fmt: skip
        rows.append(pools.offsets[b] + before + at[0])
    return np.array(rows)


def _better(pools: Pools, problem: Problem, score: float, join: str) -> tuple[Entry, int, bool]:
    """Return the best entry, how many within the limits have a smaller score, and whether these are all."""
    top_k = 1
    while True:
        found = found_by(pools, run(problem, top_k), join)
        better = sum(entry.score < score for entry in found)
        if better < len(found) or found.exhausted or top_k > COUNTED:
            return found[0], min(better, COUNTED), better <= COUNTED
        top_k = min(100 * top_k, COUNTED + 1)


def _upper(limit: Limit) -> float | None:
    return None if limit.upper == math.inf else limit.upper


def _broken(problem: Problem, entry: Entry) -> list[BrokenLimit]:
    broken = []
    for limit in problem.limits:
        value = entry.costs[limit.name]
        if limit.upper is not None and value > limit.upper:
            broken.append(BrokenLimit(limit.name, "limits", limit.upper, value))
        if limit.lower is not None and value < limit.lower:
            broken.append(BrokenLimit(limit.name, "at_least", limit.lower, value))
    return broken


def _blocks(pools: Pools, problem: Problem, row: np.ndarray) -> list[BlockRank]:
    blocks = []
    for b, (begin, end) in enumerate(zip(pools.offsets[:-1].tolist(), pools.offsets[1:].tolist())):
        terms = problem.losses[begin:end]
        own, first = int(row[b]) - begin, int(terms.argmin())
        value, least = (float(problem.grid.total(terms[at])) for at in (own, first))
        rank = 1 + int((terms < terms[own]).sum())
        blocks.append(BlockRank(pools.choice(b, own), value, pools.choice(b, first), least, rank, end - begin))
    return blocks


def _beaten(pools: Pools, problem: Problem, entry: Entry, names: Sequence[str], join: str) -> Entry | None:
    """Return the best entry that has no more of the named costs and is better in score or, at an equal one, in a cost."""
    bounds = []
    for limit in problem.limits:
        value = entry.costs[limit.name]
        if limit.name not in names:
            bounds.append(Limit(limit.name))
        elif limit.lower is not None and _upper(limit) is None:
            bounds.append(Limit(limit.name, None, value))
        else:
            bounds.append(Limit(limit.name, value, None if limit.lower is None else min(limit.lower, value)))

    def best(limits: Sequence[Limit]) -> Entry | None:
        try:
            return found_by(pools, run(replace(problem, limits=limits), 1), join)[0]
        except InfeasibleError:
            return None

    found = best(bounds)
    if found is not None and found.score < entry.score:
        return found
    for at, limit in enumerate(bounds):
        if limit.name not in names:
            continue
        if limit.upper is not None:
            tighter = replace(limit, upper=math.nextafter(limit.upper, -math.inf))
        else:
            tighter = replace(limit, lower=math.nextafter(limit.lower or 0.0, math.inf))
        found = best([*bounds[:at], tighter, *bounds[at + 1 :]])
        if found is not None and found.score <= entry.score:
            return found
    return None
