"""The page that compares runs, from their folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from pynas.errors import InputError
from pynas.report import compared, sections
from pynas.report.page import Section, page, paragraph
from pynas.runs.limits import describe
from pynas.runs.report import layers_of
from pynas.runs.results import Results
from pynas.runs.spent import describe_cost, search_cost


def comparison_page(folders: Sequence[Path]) -> tuple[str, str, list[str]]:
    """Return title, HTML and section titles of the page that compares runs; the first is the one the others are compared with.

    Raises:
        InputError: fewer than two runs, one of them twice, no run, or a damaged file; the message names it.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise InputError(
            f"[report] expected two or more runs, each once, to compare, got {', '.join(map(str, folders))}"
        )
    distinct = len({folder.resolve().name for folder in folders}) == len(folders)
    runs = {folder.resolve().name if distinct else str(folder): Results(folder) for folder in folders}
    parts = [part for part in (
        compared.table_section("At a glance", list(runs), glance(runs), half=True),
        settings(runs), networks(runs), differences(runs), scores(runs), fronts(runs), *trainings(runs),
    ) if part is not None]  # fmt: skip
    lead = "".join(
        paragraph(f"Not there yet in {name}: {'; '.join(run.missing)}.", quiet=True)
        for name, run in runs.items()
        if run.missing
    )
    title = f"{', '.join(list(runs)[:-1])} and {list(runs)[-1]}, compared"
    return title, page(title, lead, parts), [part.title for part in parts]


def glance(runs: Mapping[str, Results]) -> dict[str, list[str]]:
    """Return what runs found and took, in words: by what it is, one value per run."""
    each = [dict(_facts(run)) for run in runs.values()]
    return {
        name: [facts.get(name, "") for facts in each]
        for name in dict.fromkeys(name for facts in each for name in facts)
    }


def _facts(run: Results) -> Iterator[tuple[str, str]]:
    yield "method", run.settings.method
    yield "space", f"{run.space.name}, {run.space.size:,} architectures"
    yield "images", run.settings.data
    if run.architecture is not None:
        yield "network", run.space.format(run.architecture)
    for tile in run.tiles():
        yield tile.title, tile.value
    if run.search is not None:
        yield "limits", describe(run.search)
    yield "training, steps", f"{run.metrics[-1]['step']:,} of {run.metrics[-1]['steps']:,}" if run.metrics else "none"
    if cost := search_cost(run.folder):
        yield "training and rating took", describe_cost(cost)


def settings(runs: Mapping[str, Results]) -> Section | None:
    """Return the section of the settings that differ."""
    each = [run.settings.model_dump() for run in runs.values()]
    rows = {name: [_text(values[name]) for values in each] for name in each[0]}
    rows = {name: values for name, values in rows.items() if len(set(values)) > 1}
    return compared.table_section("Settings that differ", list(runs), rows, half=True) if rows else None


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return "" if value is None else str(value)


def networks(runs: Mapping[str, Results]) -> Section | None:
    """Return the section of the networks that were found."""
    found = {
        name: (run.space.format(run.architecture), layers_of(run))
        for name, run in runs.items()
        if run.architecture is not None
    }
    return compared.networks_section(found) if found else None


def differences(runs: Mapping[str, Results]) -> Section | None:
    """Return the section of the choices of each block, of runs on one space that found other networks."""
    found = {name: run.architecture for name, run in runs.items() if run.architecture is not None}
    if len(found) < 2 or not _one_space(runs) or len(set(found.values())) < 2:
        return None
    rows = {}
    for b in range(len(next(iter(runs.values())).space.blocks)):
        choices = [architecture[b] for architecture in found.values()]
        same = len(set(choices)) == 1
        rows[f"block {b}"] = [f"{choice.cell}:{''.join(map(str, choice.path))}{' (same)' * same}" for choice in choices]
    return compared.table_section("The choice of each block", list(found), rows, half=True)


def scores(runs: Mapping[str, Results]) -> Section | None:
    """Return the section of how far the scores of runs on one space agree with those of the first."""
    rated = {name: run for name, run in runs.items() if run.searched is not None}
    if len(rated) < 2 or not _one_space(rated):
        return None
    (first, run), *others = rated.items()
    pairs = {name: _pair(run, other, first, name) for name, other in others}
    return compared.scores_section(first, pairs, {name: _block_taus(run, other) for name, other in others})


def _pair(run: Results, other: Results, first: str, second: str) -> tuple[float, list[Any], dict[str, Any]]:
    """Return Kendall's tau, points and marked points of two runs, see `pynas.report.compared.scores_section`."""
    space = run.space
    drawn = [space.parse(point.architecture) for point in run.drawn]
    both = np.stack([run.totals(drawn), other.totals(drawn)], 1)
    kept = ~np.isnan(both).any(1)
    names = [point.architecture for point, keep in zip(run.drawn, kept) if keep]
    points = [(name, float(x), float(y)) for name, (x, y) in zip(names, both[kept])]
    marked = {}
    for owner, each in ((first, run), (second, other)):
        if each.architecture is not None:
            at = [float(scored.totals([each.architecture])[0]) for scored in (run, other)]
            marked[f"network of {owner}"] = (space.format(each.architecture), *at)
    return float(kendalltau(*both[kept].T).statistic), points, marked


def _block_taus(run: Results, other: Results) -> list[float]:
    assert run.searched is not None and other.searched is not None
    taus = []
    for block, others in zip(run.searched, other.searched):
        values = np.stack([np.concatenate([table.scores.ravel() for table in tables]) for tables in (block, others)])
        taus.append(float(kendalltau(*values[:, ~np.isnan(values).any(0)]).statistic))
    return taus


def fronts(runs: Mapping[str, Results]) -> Section | None:
    """Return the section of scores against costs of every run."""
    shown = {name: (run.front[0], run.groups(), run.search["limits"]) for name, run in runs.items()
             if run.front is not None and run.search is not None}  # fmt: skip
    return compared.fronts_section(shown) if shown else None


def trainings(runs: Mapping[str, Results]) -> list[Section]:
    """Return the sections of the training and of the retrainings of every run."""
    parts = [sections.training_section(run.metrics, name) for name, run in runs.items() if run.metrics]
    done = {name: run.retrainings for name, run in runs.items() if run.retrainings}
    return parts + [sections.retraining_section(trainings, name) for name, trainings in done.items()]


def _one_space(runs: Mapping[str, Results]) -> bool:
    return len({run.space.name for run in runs.values()}) == 1
