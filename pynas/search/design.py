"""Networks to train for a calibration: those that tell the weights of a linear model apart, or random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.search.best import best
from pynas.search.calibration import Terms
from pynas.search.limits import keeps
from pynas.spaces import Architecture

CHOICES = ("d-optimal", "random")
# Networks that a design is chosen from, and random ones that are looked at for each.
_POOL, _TRIES, _BATCH = 500, 4, 100


def choose_networks(
    scores: Scores,
    costs: Costs,
    count: int,
    *,
    choose: str = "d-optimal",
    limits: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    seed: int = 0,
    among: Sequence[Architecture] | None = None,
) -> list[Architecture]:
    """Choose rated networks within the limits to be trained for `calibrate`.

    choose: "random", or "d-optimal": of 500 random ones those with the greatest det(X'X + I), where the rows
    of X are 1 and the terms of `calibrate`: greedy, then by exchanges (Fedorov 1972).

    among: networks to choose from, all rated; None for the whole space.

    Raises:
        InputError: an unknown choice, or fewer networks within the limits than asked for.
        InfeasibleError: no network keeps the limits.
    """
    if choose not in CHOICES:
        raise InputError(f"[calibrate] expected networks chosen {' or '.join(CHOICES)}, got {choose!r}")
    rng = np.random.default_rng(seed)
    if among is None:
        pool = _draw(
            scores, costs, count if choose == "random" else max(count, _POOL), limits or {}, at_least or {}, rng
        )
    else:
        inside = [network for network in among if keeps(costs.of(network), limits or {}, at_least or {})]
        pool = [inside[i] for i in rng.permutation(len(inside))]
    if len(pool) < count:
        raise InputError(
            f"[calibrate] expected {count} networks within the limits, got {len(pool)}; ask for fewer or widen them"
        )
    if choose == "random":
        return pool[:count]
    terms = Terms.of_scores(scores, costs).of(pool)
    rows = np.concatenate([np.ones((len(pool), 1)), terms], axis=1)
    return [pool[i] for i in d_optimal(rows, count)]


def d_optimal(rows: np.ndarray, count: int) -> list[int]:
    """Return the places of `count` rows `[N, F]` that no exchange of one improves in det(X'X + I), in rising order.

    They are found greedily, then by exchanges of the best pair for each chosen row in turn.
    """
    inverse, chosen = np.eye(rows.shape[1]), list[int]()
    for _ in range(count):
        chosen.append(_add(rows, inverse, chosen))
        inverse = np.linalg.inv(np.eye(rows.shape[1]) + rows[chosen].T @ rows[chosen])
    improved = True
    while improved:
        improved = False
        for place in range(count):
            rest = chosen[:place] + chosen[place + 1 :]
            inverse = np.linalg.inv(np.eye(rows.shape[1]) + rows[rest].T @ rows[rest])
            new = _add(rows, inverse, rest)
            gain, before = (rows[i] @ inverse @ rows[i] for i in (new, chosen[place]))
            if gain > before * (1 + 1e-9):
                chosen[place], improved = new, True
    return sorted(chosen)


def _add(rows: np.ndarray, inverse: np.ndarray, chosen: list[int]) -> int:
    """Return the row that raises the determinant most: it is multiplied by 1 + x' inverse x."""
    gains = np.einsum("nf,fg,ng->n", rows, inverse, rows, optimize=True)
    gains[chosen] = -np.inf
    return int(gains.argmax())


def _draw(
    scores: Scores,
    costs: Costs,
    count: int,
    limits: Mapping[str, float],
    at_least: Mapping[str, float],
    rng: np.random.Generator,
) -> list[Architecture]:
    """Draw different rated networks within the limits, uniformly; where these are rare, by the exact search on random scores."""
    found: dict[Architecture, None] = {}
    for _ in range(max(1, _TRIES * count // _BATCH)):
        drawn = [scores.space.sample(rng) for _ in range(_BATCH)]
        for network, score in zip(drawn, scores.total(drawn)):
            if not np.isnan(score) and keeps(costs.of(network), limits, at_least):
                found[network] = None
        if len(found) >= count:
            return list(found)[:count]
    tables = [
        [ScoreTable.of_paths(t.shape, t.rated()[0], rng.random(len(t))) for t in cells] for cells in scores.tables
    ]
    best_drawn = best(Scores(scores.space, tables), costs, limits, count, at_least=at_least)
    found |= dict.fromkeys(entry.architecture for entry in best_drawn)
    return list(found)[:count]
