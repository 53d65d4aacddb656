"""How far the seeds of a run agree: the error bar of their averaged scores, and the networks that it does not tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pynas import search
from pynas.costs import cost_heading
from pynas.quantities import show_cost
from pynas.rating import Scores, reliability
from pynas.rating.averaging import seed_variances
from pynas.spaces import Architecture
from pynas.tabular.robustness import sampled_totals

# Architectures that are looked at, and those that are named.
MOST, NAMED = 1000, 5
# Standard errors of a difference within which two scores are taken for equal, once in twenty wrongly.
_WIDTH = 1.96


class ErrorBar:
    """Error of averaged scores that comes from the members' seeds.

    variances: of the error of the averaged scores of a block's paths, float64 `[blocks]`, weighted as the blocks are.
    """

    def __init__(self, members: Sequence[Scores], weights: Sequence[float] | None = None) -> None:
        weight = np.ones(len(members[0])) if weights is None else np.asarray(weights, dtype=np.float64)
        self.variances = seed_variances(members) / len(members) * weight**2

    @property
    def error(self) -> float:
        """Standard error of the total score of a network."""
        return math.sqrt(self.variances.sum())

    @property
    def distance(self) -> float:
        """Difference of total scores from which two networks that differ in every block are told apart."""
        return _WIDTH * math.sqrt(2) * self.error

    def between(self, one: Architecture, other: Architecture) -> float:
        """Difference of total scores from which two networks are told apart: blocks that they share have no error."""
        differ = [a != b for a, b in zip(one, other)]
        return _WIDTH * math.sqrt(2 * self.variances[differ].sum())


def indistinct(find: Callable[[int], search.Found], bar: ErrorBar, most: int = MOST) -> tuple[list[search.Entry], bool]:
    """Return the architectures that the error bar does not tell from the best, this one first, and whether these are all.

    find: called with a number k, returns the k best architectures. most: of them are looked at.
    """
    top_k = min(64, most)
    while True:
        found = find(top_k)
        best = found[0]
        complete = found.exhausted or found[-1].score - best.score >= bar.distance
        if complete or top_k >= most:
            break
        top_k = min(2 * top_k, most)
    close = [e for e in found[1:] if e.score - best.score < bar.between(e.architecture, best.architecture)]
    return [best, *close], complete


def agreement(members: Sequence[Scores], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Return how far the scores of several seeds agree, and the error bar of their average.

    weights: of the blocks in the search.
    """
    bar, pearson = ErrorBar(members, weights), reliability(members)
    _, tau = sampled_totals(members)
    common = max(pearson, 0.0)
    return {
        "tau": float(np.asarray(tau)[np.triu_indices(len(members), 1)].mean()),
        "pearson": pearson,
        # Spearman and Brown: what averages of as many members correlate with each other.
        "pearson_of_averages": len(members) * common / (1 + (len(members) - 1) * common),
        "error": bar.error,
        "block_errors": np.sqrt(bar.variances).tolist(),
        "distance": bar.distance,
    }


def alike(
    members: Sequence[Scores], find: Callable[[int], search.Found], weights: Sequence[float] | None, cost: str
) -> tuple[dict[str, Any], list[search.Entry]]:
    """Return how many networks the error bar does not tell from the best, and the first of them by a cost.

    find, weights: as of `indistinct` and `agreement`.
    """
    close, complete = indistinct(find, ErrorBar(members, weights))
    cheapest = sorted(close, key=lambda entry: entry.costs[cost])[:NAMED]
    return {"alike": len(close), "all_alike": complete, "cost": cost}, cheapest


def describe_agreement(seeds: int, content: Mapping[str, Any]) -> list[str]:
    """Say in sentences what `agreement` and `alike` found; one line each."""
    lines = [
        f"Scores are averages over {seeds} seeds, in standard deviations of a random network's. Two seeds agree with tau "
        f"{content['tau']:.2f}, Pearson {content['pearson']:.2f}; averages of {seeds} would agree with Pearson "
        f"{content['pearson_of_averages']:.2f}.",
        f"Error bar of a score: {content['error']:.2f}. Two networks that differ in every block cannot be told apart where their "
        f"scores differ by less than {content['distance']:.2f}; those that share blocks, where by less.",
    ]  # fmt: skip
    if "alike" not in content:
        return lines
    if content["alike"] == 1 and content["all_alike"]:
        return [*lines, "The best network is told apart from all others within the limits."]
    count, cost = content["alike"], content["cost"]
    least = "" if content["all_alike"] else "At least "
    named = [
        f"{entry['architecture']} (score {entry['score']:.3f}, {show_cost(cost, entry[cost])})"
        for entry in content["cheapest"]
    ]
    return [
        *lines,
        f"{least}{count:,} networks within the limits cannot be told apart, the best among them. "
        f"The cheapest of these by {cost_heading(cost)}: {'; '.join(named)}.",
    ]
