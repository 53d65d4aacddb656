"""A cost as a prior of the scores: larger networks tend to be better, whatever a rating says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.rating.averaging import average, covariance, reliability, standardised
from pynas.spaces import Architecture

# Weight from which on the scores only decide between networks of equal cost.
MOST = 100.0


@dataclass(frozen=True)
class PriorWeight:
    """Weight of a prior, and the agreement that it was chosen by.

    members: ratings whose mean the scores are. reliability: of one of them, the mean Pearson correlation between two; None
    for a single one. mean_reliability: of their mean, by Spearman and Brown. correlation: of the scores' mean with the prior.
    """

    weight: float
    members: int
    reliability: float | None
    mean_reliability: float | None
    correlation: float


def with_prior(scores: Scores, costs: Any, cost: str, weight: float = 1.0) -> Scores:
    """Return standardised scores + weight * prior, where the prior is minus the cost, standardised; lower is better.

    Both parts are sums over the blocks whose totals have the standard deviation 1 over the space's rated networks, so that the
    search stays exact. The prior is the cost itself, not its ranks within each block: ranks by block do not add up to a rank
    of the networks, and give a block whose paths hardly differ as many ranks as any other. The order of the networks by the
    prior alone is their order by cost. In a space of one block, where paths are networks, ranks replace the cost (normal
    scores), which takes the skewness out and keeps the order.

    costs: `Costs`, or for a space of one block costs with `of(architecture)`. cost: the name of one that adds up over the
    blocks, such as params, madds or log_width. weight: 0 for the scores alone; 1 for equal parts.

    Raises:
        InputError: a weight below 0 or not finite, an unknown cost or one that does not add up, or that is equal for all
            networks, or infinite scores.
    """
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"[prior] expected a weight of 0 or more, got {weight}")
    base, prior = standardised(scores), cost_prior(scores, costs, cost)
    tables = [[_sum(table, more, weight) for table, more in zip(*block)] for block in zip(base.tables, prior.tables)]
    return Scores(scores.space, tables, {**scores.metadata, "prior": cost, "prior_weight": float(weight)})


def cost_prior(scores: Scores, costs: Any, cost: str) -> Scores:
    """Return minus a cost of every rated path, standardised as in `with_prior`.

    Raises:
        InputError: as `with_prior`.
    """
    prior = negative_cost(scores, costs, cost)
    if not covariance([prior])[0, 0] > 0:
        raise InputError(f"[prior] expected a cost that differs between networks, got equal {cost} for all that are rated; take "
                         "another one, or none")  # fmt: skip
    return standardised(prior)


def negative_cost(scores: Scores, costs: Any, cost: str) -> Scores:
    """Return minus a cost of every rated path, in a space of one block the normal scores of its ranks.

    Raises:
        InputError: an unknown cost, one that does not add up over the blocks, or costs of another space.
    """
    rated = [[table.rated()[0] for table in cells] for cells in scores.tables]
    if isinstance(costs, Costs) and [len(cells) for cells in costs[cost]] != [len(cells) for cells in rated]:
        raise InputError(f"[prior] expected costs of {scores.space}, got tables of {[len(cells) for cells in costs[cost]]} cells "
                         f"by block for {[len(cells) for cells in rated]}")  # fmt: skip
    values = [
        [cost_values(costs, cost, b, c, paths, scores[b][c].shape) for c, paths in enumerate(cells)]
        for b, cells in enumerate(rated)
    ]
    if len(values) == 1:
        values = [_normal_scores(values[0])]
    tables = [
        [ScoreTable.of_paths(table.shape, paths, -value) for table, paths, value in zip(*block)]
        for block in zip(scores.tables, rated, values)
    ]
    return Scores(scores.space, tables)


def agreed_weight(members: Sequence[Scores], costs: Any, cost: str) -> PriorWeight:
    """Choose the weight of a prior from how far several ratings of one space agree, without any accuracy.

    Let s be the mean of the members and p the prior, both standardised, rho the reliability of s, and r = corr(s, p). The
    disagreement of the members shows their chance errors, not a bias that all of them have; so no agreement makes the prior
    needless. It is assumed that what the members share is as good a predictor of the accuracy as the cost is, and that beyond
    the accuracy the two have nothing in common. Then v = r / sqrt(rho) is the square of either's correlation with the accuracy
    (Spearman's correction for attenuation, 1904), and the best linear predictor, by the normal equations, has the weights
    sqrt(rho) (1 - v) of s and 1 - v rho of p. Their ratio is returned: 1 for members that agree perfectly, growing without
    end as they agree less (or as all that they agree on is the cost), where it stops at 100: the scores then decide between
    networks of equal cost alone.

    rho = n rho_1 / (1 + (n - 1) rho_1) for n members whose scores correlate by rho_1 on average (Spearman 1910, Brown 1910).
    A single member has no known reliability: the weight is 1, the least that this rule gives.

    Raises:
        InputError: no members, members of different spaces, or as `with_prior`.
    """
    joined = average(members)
    moments = covariance([joined, cost_prior(joined, costs, cost)])
    if not moments[0, 0] > 0:
        raise InputError("[prior] expected scores that differ between networks, got equal ones for all")
    correlation = float(moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]))
    if len(members) == 1:
        return PriorWeight(1.0, 1, None, None, correlation)
    one, n = reliability(members), len(members)
    mean = n * one / (1 + (n - 1) * one) if one > 0 else 0.0
    shared = min(max(correlation, 0.0), np.sqrt(mean)) / np.sqrt(mean) if mean else 0.0
    ours, priors = np.sqrt(mean) * (1 - shared), 1 - shared * mean
    weight = MOST if ours * MOST <= priors else float(priors / ours)
    return PriorWeight(weight, n, one, mean, correlation)


def cost_values(costs: Any, cost: str, block: int, cell: int, paths: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cost of paths `[N, L]` of a cell whose table has a shape, float64 `[N]`."""
    if isinstance(costs, Costs):
        table = np.asarray(costs[cost][block][cell], np.float64)
        if table.shape != shape:
            raise InputError(f"[prior] expected the cost {cost!r} with the score table's shape {shape}, got {table.shape} in "
                             f"cell {cell} of block {block}; count the costs of the same space")  # fmt: skip
        return table[tuple(paths.T)]
    if cost not in costs.names:
        raise InputError(f"[prior] expected one of {', '.join(costs.names)}, got {cost!r}")
    return np.array([costs.of(Architecture.of([(cell, path)]))[cost] for path in paths.tolist()], np.float64)


def _normal_scores(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Normal quantiles of the ranks among the values of all cells; equal values share the mean of their ranks."""
    ranks = rankdata(np.concatenate(cells))
    return np.split(norm.ppf((ranks - 0.5) / len(ranks)), np.cumsum([len(cell) for cell in cells])[:-1])


def _sum(table: ScoreTable, prior: ScoreTable, weight: float) -> ScoreTable:
    paths, values = table.rated()
    return ScoreTable.of_paths(table.shape, paths, values + weight * prior.at(paths), table.metadata)
