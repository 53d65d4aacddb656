"""The search stage of a run: limits, costs, the best architectures, the front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pynas import search
from pynas.runs.stages import SEARCH, Run, costs
from pynas.costs import Costs, LayerCosts, check_latency, cost_range, latency, read_csv
from pynas.errors import InputError
from pynas.files import header, write_json
from pynas.methods import fit_block_weights
from pynas.rating import ScoreTable
from pynas.rating.scores import load_block
from pynas.report import draw_front
from pynas.spaces import Space


def latencies(run: Run) -> Costs:
    """The latency table on the run's device, measured once for each device and kept as `latency-<device>.npz`.

    Whole networks, drawn at random, are measured too: the file says how far the sums of candidates are from them.
    """
    path = run.folder / f"latency-{run.device.type}.npz"
    if path.exists():
        return Costs.load(path)
    measured = latency(run.net, run.data.image_shape, run.device)
    rng = np.random.default_rng(0)
    sample = [run.space.sample(rng) for _ in range(CHECKED_NETS)]
    checked = check_latency(run.net, measured, sample, run.device)
    said = {"checked_nets": CHECKED_NETS, "mean_error": checked.error, "whole_over_sum": checked.scale,
            "mean_error_scaled": checked.scaled_error}  # fmt: skip
    measured = replace(measured, metadata={**measured.metadata, **said})
    measured.save(path)
    return measured


# Whole networks that a latency table is checked on.
CHECKED_NETS = 8


@dataclass(frozen=True)
class Wishes:
    """What a search is asked for: limits and lower limits by cost, how many, and how scores join."""

    limits: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    top_k: int = 5
    weights: Sequence[float] | None = None
    join: str = "sum"
    front: str | None = None
    table: Path | None = None  # a CSV file with costs of the user's own

    @property
    def named(self) -> set[str]:
        """The costs that matter."""
        return {*self.limits, *self.at_least, *([self.front] if self.front else [])}


def rated(run: Run) -> list[list[ScoreTable]]:
    """The score tables of all blocks, read."""
    return [load_block(run.folder / "scores" / f"block_{b + 1}.npz")[0] for b in range(len(run.space))]


def fitted_weights(run: Run, file: Path, weights: Sequence[float] | None) -> dict[str, Any]:
    """Block weights fitted to the accuracies of trained networks in a CSV file, and how well they order these.

    Raises:
        InputError: weights given too, or a file that does not fit.
    """
    from pynas.runs.report import read_truth

    if weights is not None:
        raise InputError("[search] expected --weights or --trained, got both")
    truth = read_truth(file, run.space)
    fitted = fit_block_weights(rated(run), list(truth), list(truth.values()))
    return {**asdict(fitted), "networks": len(truth)}


def gather_costs(run: Run, wishes: Wishes) -> Costs:
    """The counted costs, the user's own, and latency if it is named."""
    table = costs(run)
    if wishes.table is not None:
        table = table | read_csv(wishes.table, run.space)
    if "latency" in wishes.named and "latency" not in table.names:
        table = table | latencies(run)
    return table


def latency_note(table: Costs) -> dict[str, Any]:
    """What is known of the latency table: device, spread of the repeats, error on whole networks."""
    names = ("device", "batch_size", "repeats", "median_spread", "checked_nets", "mean_error", "whole_over_sum",
             "mean_error_scaled")  # fmt: skip
    return (
        {"latency_table": {name: table.metadata[name] for name in names}}
        if "whole_over_sum" in table.metadata
        else {}
    )


def find(run: Run, wishes: Wishes) -> dict[str, Any]:
    """Exact search over the rated blocks; writes and returns search.json, and with `front` its figure.

    Without any limit the budget is half way between the least and the most MAdds.
    """
    tables, table = rated(run), gather_costs(run, wishes)
    limits = dict(wishes.limits)
    if not limits and not wishes.at_least:
        limits = {"madds": half_way(run.space, table, "madds", tables)}
    how: dict[str, Any] = {"weights": wishes.weights, "join": wishes.join, "states": search.states_of(run.space)}
    found = search.best(tables, table, limits=limits, top_k=wishes.top_k, at_least=wishes.at_least, **how)
    certificate = found.certificate
    content = search_content(
        run,
        wishes,
        limits,
        entries(run.space, found),
        exhausted=found.exhausted,
        space_size=certificate.space_size,
        visited=certificate.visited,
        pruned=certificate.pruned,
        lower_bound=certificate.lower_bound,
        **latency_note(table),
    )
    if wishes.front is not None:
        content |= _front(run, search.front(tables, table, wishes.front, **how), content)
    write_json(run.folder / "search.json", content)
    return content


def search_content(
    run: Run, wishes: Wishes, limits: Mapping[str, float], found: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """What search.json says of every search: what was asked for, and what was found, best first."""
    return header(SEARCH, space=run.space.name, data=run.data.fingerprint) | {
        "limits": dict(limits),
        "at_least": dict(wishes.at_least),
        "limits_by_default": not wishes.limits and not wishes.at_least,
        "weights": wishes.weights,
        "join": wishes.join,
        "top_k": wishes.top_k,
        "space_size": run.space.size,
        **more,
        "found": list(found),
    }


def entries(space: Space, found: Iterable[search.Entry]) -> list[dict[str, Any]]:
    """Architectures as search.json says them."""
    return [{"architecture": space.format(e.architecture), "score": e.score, **e.costs} for e in found]


def _front(run: Run, front: search.Front, content: Mapping[str, Any]) -> dict[str, Any]:
    """The front as part of search.json, and its pictures."""
    name = front.names[0]
    points = [(entry.costs[name], entry.score) for entry in front]
    chosen = [(entry[name], entry["score"]) for entry in content["found"]]
    files = draw_front(run.folder / f"front-{name}", name, points, chosen, content["limits"].get(name))
    pictures = [path.name for path in files]
    return {"front": {"cost": name, "pictures": pictures, "architectures": entries(run.space, front)}}


def half_way(
    space: Space, table: Costs | LayerCosts, name: str, scores: Sequence[Sequence[ScoreTable]] | None = None
) -> int:
    """Half way between the least and the greatest cost of any architecture, or of any that has a score."""
    rated = None if scores is None else [[~np.isnan(cell.scores) for cell in cells] for cells in scores]
    least, most = cost_range(space, table, name, rated)
    return int(least + most) // 2
