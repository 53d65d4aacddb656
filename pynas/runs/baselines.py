"""Networks that the found one is compared with: the largest of the space, and random ones under the same limits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pynas import search, teachers
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.rating import Scores, ScoreTable
from pynas.runs.request import Request, request_of
from pynas.runs.run import Run
from pynas.runs.search import SEARCH, find_limits, gather_costs
from pynas.spaces import Architecture
from pynas.zero_cost.saliency import largest

BASELINES, FILE = "pynas.baselines", "baselines.json"
# Random networks, and how many are drawn to find that many under the limits.
RANDOM, _DRAWN = 3, 10_000


def measure_baselines(run: Run, take: Callable[[Architecture], nn.Module], digest: str) -> None:
    """Write baselines.json: test accuracy and costs of the largest network and of three random ones under the search's limits.

    They are measured again only where weights, data or limits have changed, and not, with a warning, where the costs that are
    limited are not to be had any more.

    take: returns a network with the supernet's weights, ready to be measured. digest: of these weights.
    """
    request = request_of(read_json(path, SEARCH) if (path := run.folder / "search.json").exists() else {})
    measured_on = {"checkpoint": digest, "data": run.data.fingerprint, "limits": dict(request.limits),
                   "at_least": dict(request.at_least)}  # fmt: skip
    path = run.folder / FILE
    if path.exists() and all(read_json(path, BASELINES).get(name) == value for name, value in measured_on.items()):
        return
    try:
        costs = gather_costs(run, request)
    except InputError as error:  # a file of the user's own costs has gone
        warnings.warn(f"[export] no other networks were measured to compare with: {error}", stacklevel=2)
        return
    chosen = [("largest", largest_network(run, costs)), *(("random", each) for each in _random(run, costs, request))]
    rows = [
        {"kind": kind, "architecture": run.space.format(architecture), **costs.of(architecture),
         "test_accuracy": teachers.accuracy(take(architecture), run.data, device=run.device)}
        for kind, architecture in chosen
    ]  # fmt: skip
    write_json(path, header(BASELINES, space=run.space.name) | measured_on | {"networks": rows})


def read_baselines(folder: Path) -> list[dict[str, Any]]:
    """Return the networks of baselines.json: kind ("largest", "random"), architecture, test_accuracy and costs of each."""
    path = folder / FILE
    return read_json(path, BASELINES)["networks"] if path.exists() else []


def largest_network(run: Run, costs: Any) -> Architecture:
    """Return the architecture of most MAdds; of a space whose layers share widths, that of the last candidates everywhere."""
    if not isinstance(costs, Costs):
        return largest(run.net)
    tables = [[ScoreTable(-table.astype(np.float64)) for table in block] for block in costs["madds"]]
    return search.best(Scores(run.space, tables), costs)[0].architecture


def _random(run: Run, costs: Any, request: Request) -> list[Architecture]:
    """Return networks drawn at random that keep the limits; fewer, or none, where hardly any does."""
    rng, limits = np.random.default_rng(run.settings.seed), find_limits(run, request, costs)
    found: list[Architecture] = []
    for _ in range(_DRAWN):
        if len(found) == min(RANDOM, run.space.size):
            break
        architecture = run.space.sample(rng)
        if architecture not in found and limits.keep(costs.of(architecture)):
            found.append(architecture)
    return found
