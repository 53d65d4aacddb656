"""Latency tables of a run: candidates and whole networks, measured in the runtime that will serve them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from pynas.costs import check_latency, corrected, latency, load
from pynas.costs.latency import NAME
from pynas.costs.latency_check import Correction
from pynas.errors import InputError
from pynas.quantities import is_time
from pynas.report.latency import draw_latency
from pynas.report.network import label
from pynas.runs.run import Run
from pynas.runtimes import RUNTIMES, Workload

# Whole networks that a table is checked on, and networks drawn at random that they are chosen from.
NETWORKS, _DRAWN = 12, 1000
_NAME = re.compile(r"[\w.-]+")


def measure_latency(
    run: Run,
    workload: Workload,
    name: str | None = None,
    networks: int = NETWORKS,
    repeats: int = 20,
    correct: bool = True,
) -> Any:
    """Measure the latency table of a workload, check it on whole networks, correct it by them, and keep it in the run.

    name: of the file `latency/NAME.npz` and of the cost, `latency@NAME`; None for the name of the workload, whose cost is
        `latency`. networks: how many whole ones are measured, evenly spaced by their latency among 1,000 drawn at random.
    correct: see `pynas.costs.Correction`.

    Returns the table, whose `metadata["latency"]` (or `"latency@NAME"`) tells what was measured: the workload, `candidates` as in
    `pynas.costs.latency`, `networks` (architecture, sum, measured and corrected ms, MAdds), the mean errors of sums and
    of corrected ones, and Kendall's tau of MAdds and of the sums with the measured latency.

    Raises:
        InputError: a name with other than letters, digits and _ . -, a module or network that the runtime does not take.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(f"[latency] expected a name of letters, digits and _ . -, got {name!r}")
    if networks < 0:
        raise InputError(f"[latency] expected 0 or more whole networks, got {networks}")
    options: dict[str, Any] = {"runtime": workload.runtime, "threads": workload.threads, "repeats": repeats}
    shape, report = run.data.image_shape, run.progress.count
    table = latency(run.net, shape, workload.device, batch_size=workload.batch_size, **options,
                    on_built=report("make candidates ready"))  # fmt: skip
    about = dict(table.metadata)
    for row in about["candidates"]:
        row["name"] = _candidate(run, row["place"])
    if sample := _evenly_spaced(run, table, networks):
        check = check_latency(
            run.net, table, sample, workload.device, **options, on_built=report("make networks ready")
        )
        correction = check.correction() if correct else Correction(error=check.error)
        try:
            better = corrected(table, correction)
        except InputError:  # so little is left of the fastest network that the correction cannot be right
            correction, better = Correction(error=check.error), table
        about |= _checked(run, check, correction, better)
        table = better
    cost = NAME if name is None else f"{NAME}@{name}"
    path = _file(run.folder, name or workload.name)
    about["pictures"] = [str(each.relative_to(run.folder)) for each in draw_latency(path.with_suffix(""), about)]
    table = _named(table, cost, {"space": run.space.name, "image_shape": list(shape), cost: about})
    table.save(path)
    return table


def _file(folder: Path, name: str) -> Path:
    return folder / "latency" / f"{name}.npz"


def _named(table: Any, cost: str, metadata: Mapping[str, Any]) -> Any:
    """Return a latency table as a cost of another name."""
    return replace(table if cost == NAME else table.renamed({NAME: cost}), metadata=metadata)


def _candidate(run: Run, place: list[Any]) -> str:
    """Return the name of what stands at a place: "stem", or a candidate's label."""
    if isinstance(place[0], str):
        return " ".join(map(str, place))
    block, cell, layer, candidate = place
    return label(run.space.blocks[block][cell].layers[layer][candidate])


def _evenly_spaced(run: Run, table: Any, count: int) -> list[Any]:
    """Return networks from the fastest to the slowest among some drawn at random."""
    rng = np.random.default_rng(0)
    drawn = sorted({run.space.sample(rng) for _ in range(_DRAWN if count else 0)},
                   key=lambda architecture: table.of(architecture)[NAME])  # fmt: skip
    return [drawn[int(at)] for at in np.unique(np.linspace(0, len(drawn) - 1, min(count, len(drawn))).round())]


def _checked(run: Run, check: Any, correction: Correction, table: Any) -> dict[str, Any]:
    rows = [
        {"architecture": run.space.format(architecture), "sum": float(total), "measured": float(measured),
         "spread": float(spread), "corrected": table.of(architecture)[NAME], "madds": run.costs.of(architecture)["madds"]}
        for architecture, total, measured, spread in zip(check.architectures, check.predicted, check.measured, check.spread)
    ]  # fmt: skip
    of = {key: [row[key] for row in rows] for key in ("sum", "madds", "measured")}
    taus = {f"tau_{key}": float(kendalltau(of[key], of["measured"]).statistic) for key in ("madds", "sum")}
    return {"networks": rows, "sum_error": check.error, "correction": asdict(correction), **taus}


def latencies(run: Run, workload: Workload) -> Any:
    """Return the latency table of a workload as the cost `latency`; it is measured once, and kept."""
    path = _file(run.folder, workload.name)
    return load(path) if path.exists() else measure_latency(run, workload)


def named_latencies(run: Run, cost: str) -> Any:
    """Return the table that `pynas latency --name` measured; cost: `latency@NAME`.

    Raises:
        InputError: no table of this name.
    """
    path = _file(run.folder, cost.partition("@")[2])
    if not path.exists():
        known = latency_files(run.folder)
        raise InputError(f"[search] expected a latency table of {', '.join(known) or 'none, as none is measured'}, got {cost!r}; "
                         f"run `pynas latency {run.folder} --name {path.stem}` first")  # fmt: skip
    table = load(path)
    return table if cost in table.names else _named(table, cost, {**table.metadata, cost: table.metadata[NAME]})


def latency_files(folder: Path) -> dict[str, Path]:
    """Return the files of the latency tables of a run, by name."""
    return {path.stem: path for path in sorted((folder / "latency").glob("*.npz"))}


def about_latency(table: Any) -> dict[str, Any]:
    """Return what a latency table tells of itself."""
    return next(about for name, about in table.metadata.items() if is_time(name))


def latency_note(costs: Any) -> dict[str, Any]:
    """Return how each latency of the costs was measured, and its error on whole networks, for search.json."""
    names = ("runtime", "device", "batch_size", "repeats", "median_spread", "sum_error", "correction")
    notes = {cost: {name: about[name] for name in names if name in about} | {"networks": len(about.get("networks", ()))}
             for cost, about in costs.metadata.items() if is_time(cost)}  # fmt: skip
    return {"latency_tables": notes} if notes else {}


def describe_latency(note: Mapping[str, Any]) -> str:
    """Return the note of a latency table in words: what was measured where, and how far sums are from whole networks."""
    text = (f"{RUNTIMES[note['runtime']].title} on {note['device']}, batch of {note['batch_size']}, median of {note['repeats']} "
            f"(median spread {note['median_spread']:.0%})")  # fmt: skip
    if "correction" not in note:
        return f"{text}; no whole network was measured."
    by = Correction(**note["correction"])
    count = note["networks"] if isinstance(note["networks"], int) else len(note["networks"])
    text += f"; {count} whole networks differ from the sums of their candidates by {note['sum_error']:.1%} on average"
    if by == Correction(error=by.error):
        return f"{text}, which no correction makes better."
    terms = [f"{by.scale:.3f} x sum", *[f"{by.constant:+.3f} ms"] * bool(by.constant),
             *[f"{by.per_layer:+.4f} ms a layer"] * bool(by.per_layer)]  # fmt: skip
    return f"{text}; corrected, as {' '.join(terms)}, networks left out of the fit by {by.error:.1%}."
