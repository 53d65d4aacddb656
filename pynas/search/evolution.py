"""Searches by trial over any rating: regularised evolution (Real et al., AAAI 2019) and random search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.search.ratings import History, Rate, Ratings
from pynas.search.variation import crossover, mutate
from pynas.spaces import Architecture, Space

# Children of the same parents before a random architecture takes their place.
_TRIES = 100


def evolve(
    space: Space,
    rate: Rate,
    budget: int = 1000,
    *,
    population: int = 50,
    tournament: int = 10,
    mutation: float | None = None,
    crossing: float = 0.5,
    together: int = 1,
    seed: int = 0,
    costs: Costs | None = None,
    limits: Mapping[str, Any] | None = None,
    at_least: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Rate at most `budget` architectures by regularised evolution, each once, and return them.

    The first `population` architectures are random. Each further one is a child of the best of `tournament` members drawn
    from the `population` rated last (the oldest die). With probability `crossing` the parent is first crossed with the winner
    of another tournament; then every layer mutates with probability `mutation` (default: one layer on average).

    rate: returns the score of an architecture, lower is better. One that has `many(architectures)`, as `ErrorRate`, is called
        with all architectures that wait, at most 16, whose images are then read once.
    together: children that are bred before their scores are known, as by the many workers of Real et al.
    costs, limits, at_least: as for `best`; an architecture beyond a limit is never rated. Where hardly any random one keeps
        the limits, the first ones come from the exact search.
    file: JSON file of the ratings; a killed search resumes from it, also with a larger budget.
    progress: called with (ratings done, budget).

    Raises:
        InputError: sizes out of range, a score that is not finite, or a file of another search.
        InfeasibleError: no architecture keeps the limits.
    """
    mutation = 1 / _layers(space) if mutation is None else mutation
    _check(population, tournament, mutation, crossing, together)
    options: dict[str, Any] = {
        "population": population,
        "tournament": tournament,
        "mutation": mutation,
        "crossing": crossing,
    }
    groups = {"together": together} if together > 1 else {}
    rng = np.random.default_rng(seed)
    with Ratings(
        space, rate, budget, costs, limits, at_least, file, progress, search="evolution", seed=seed, **options, **groups
    ) as ratings:
        while ratings.left:
            bred = len(ratings.architectures) - population
            if bred >= 0 and bred % together == 0:
                ratings.settle()
            architecture = (_child(ratings, rng, **options) if bred >= 0 else None) or ratings.sample(rng)
            if architecture is not None:
                ratings.add(architecture)
        return ratings.history()


def random_search(
    space: Space,
    rate: Rate,
    budget: int = 1000,
    *,
    seed: int = 0,
    costs: Costs | None = None,
    limits: Mapping[str, Any] | None = None,
    at_least: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Rate `budget` distinct random architectures and return them; arguments as for `evolve`."""
    rng = np.random.default_rng(seed)
    with Ratings(space, rate, budget, costs, limits, at_least, file, progress, search="random", seed=seed) as ratings:
        while ratings.left:
            architecture = ratings.sample(rng)
            if architecture is not None:
                ratings.add(architecture)
        return ratings.history()


def _child(
    ratings: Ratings, rng: np.random.Generator, population: int, tournament: int, mutation: float, crossing: float
) -> Architecture | None:
    """Breed a new architecture from the living; None where their children are all rated or too costly."""

    def winner() -> Architecture:
        drawn = rng.choice(population, tournament, replace=False) + len(ratings.scores) - population
        return ratings.architectures[min(drawn.tolist(), key=lambda i: (ratings.scores[i], i))]

    for _ in range(_TRIES):
        child = winner()
        if rng.random() < crossing:
            child = crossover(ratings.space, child, winner(), rng)
        child = mutate(ratings.space, child, rng, mutation)
        if ratings.may_rate(child):
            return child
    return None


def _check(population: int, tournament: int, mutation: float, crossing: float, together: int) -> None:
    if together < 1:
        raise InputError(f"[evolve] expected at least 1 child to be bred together, got {together}")
    if not 1 <= tournament <= population:
        raise InputError(
            f"[evolve] expected a tournament of 1 to {population} members, the population, got {tournament}"
        )
    if not (0 < mutation <= 1 and 0 <= crossing <= 1):
        raise InputError(f"[evolve] expected probabilities of mutation and crossing, got {mutation} and {crossing}")


def _layers(space: Space) -> int:
    return sum(max(len(cell.layers) for cell in cells) for cells in space.blocks)
