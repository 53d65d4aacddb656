"""Every architecture of a rated space with its score, and how well the scores rank published accuracies."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas import tabular
from pynas.runs.search import rated
from pynas.runs.stages import Run
from pynas.files import header, write_json, write_text
from pynas.rating import ScoreTable
from pynas.rating.scores import load_block
from pynas.report import draw_convergence, draw_ranking
from pynas.spaces import Architecture, Choice, Space

CORRELATION = "pynas.correlation"
# Spaces of more architectures are not listed one by one.
MOST = 100_000
# Benchmarks that hold accuracies of a space of another name.
BENCHMARKS = {"mbconv-boss": "mbconv-23"}
_SHOWN = {"tau": "Kendall τ", "rho": "Spearman ρ", "r": "Pearson R"}

Tables = Sequence[Sequence[ScoreTable]]


def architectures(space: Space, before: tuple[Choice, ...] = (), state: Hashable = None) -> Iterator[Architecture]:
    """All architectures of a space, block after block in the order of its choices."""
    return space.architectures()


def scores_of(tables: Tables, found: Iterable[Architecture]) -> np.ndarray:
    """The sum of the blocks' scores of each architecture `[N]`; NaN where a path was not rated."""
    return np.array([sum(tables[b][c.cell][c.path] for b, c in enumerate(architecture)) for architecture in found])


def bench_of(space: Space) -> tabular.Benchmark | None:
    """The published accuracies of a space's architectures, where there are any."""
    name = BENCHMARKS.get(space.name, space.name)
    return tabular.load(name) if name in tabular.BENCHMARKS else None


def bench_scores(space: Space, tables: Tables, bench: tabular.Benchmark) -> np.ndarray:
    """The score of every row of a benchmark, NaN where there is none."""
    return scores_of(tables, map(space.parse, bench.architectures))


def rank(run: Run) -> dict[str, Any]:
    """Write ranking.csv (best first), and where accuracies are published the correlations and their pictures."""
    tables = rated(run)
    content: dict[str, Any] = {}
    if run.space.size <= MOST:
        found = list(architectures(run.space))
        scores = scores_of(tables, found)
        order = np.argsort(scores, kind="stable")[: int((~np.isnan(scores)).sum())].tolist()
        lines = [f"{run.space.format(found[i])},{float(scores[i])!r}" for i in order]
        write_text(run.folder / "ranking.csv", "\n".join(["architecture,score", *lines]) + "\n")
        content["ranking"] = {"file": str(run.folder / "ranking.csv"), "architectures": len(lines)}
    bench = bench_of(run.space)
    if bench is not None:
        content["correlation"] = compare(run, tables, bench)
    return content


def compare(run: Run, tables: Tables, bench: tabular.Benchmark, top: float = 0.25) -> dict[str, Any] | None:
    """Rank correlations of the scores and of the trivial baselines, at the end and after each epoch that was rated.

    Writes correlation.json, ranking.png and .svg (figure 6), and convergence.png and .svg (figure 9).
    """
    scores = bench_scores(run.space, tables, bench)
    if (~np.isnan(scores)).sum() < 3:
        return None
    found = tabular.correlate(scores, bench, top=top, resamples=200, seed=run.settings.seed)
    epochs: dict[int, dict[str, float]] = {}
    for epoch, some in epoch_tables(run):
        at = tabular.correlate(bench_scores(run.space, some, bench), bench, top=top, resamples=1)
        epochs[epoch] = {name: getattr(at, name) for name in _SHOWN}
    epochs[run.settings.epochs] = {name: getattr(found, name) for name in _SHOWN}
    known = ~np.isnan(scores)
    title = f"{run.settings.method} on {run.space.name}, {run.settings.data}: {found.count:,} architectures"
    shown = "   ".join(f"{label} {epochs[run.settings.epochs][name]:.3f}" for name, label in _SHOWN.items())
    files = draw_ranking(run.folder / "ranking", scores[known], bench.accuracy[known], title=f"{title}\n{shown}",
                         data_label=bench.data)  # fmt: skip
    if len(epochs) > 1:
        ordered = sorted(epochs)
        lines = {label: [epochs[epoch][name] for epoch in ordered] for name, label in _SHOWN.items()}
        files += draw_convergence(run.folder / "convergence", ordered, lines, title)
    content = {**found.as_dict(), "source": bench.source, "epochs": {str(e): epochs[e] for e in sorted(epochs)},
               "pictures": [path.name for path in files]}  # fmt: skip
    write_json(run.folder / "correlation.json", header(CORRELATION, space=run.space.name) | content)
    return content


def epoch_tables(run: Run) -> Iterator[tuple[int, list[list[ScoreTable]]]]:
    """Per epoch at which all blocks were rated, their score tables."""
    for folder in sorted((run.folder / "scores").glob("epoch_*"), key=_epoch):
        files = [folder / f"block_{b + 1}.npz" for b in range(len(run.space))]
        if _epoch(folder) < run.settings.epochs and all(map(Path.exists, files)):
            yield _epoch(folder), [load_block(file)[0] for file in files]


def _epoch(folder: Path) -> int:
    found = re.fullmatch(r"epoch_(\d+)", folder.name)
    return int(found[1]) if found else 0
