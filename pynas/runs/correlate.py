"""How well scores rank published accuracies: of a run, or of a file, beside what trivial baselines reach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pynas import tabular
from pynas.errors import InputError
from pynas.files import header, read_json, write_json, write_text
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.report import draw_convergence, draw_ranking, draw_rankings
from pynas.report.figures import save_figure
from pynas.report.statistics import statistics_figure
from pynas.runs.joined import scores_of_search
from pynas.runs.rate import load_scores, scores_folder, stored_members
from pynas.runs.run import Run
from pynas.runs.search import SEARCH
from pynas.runs.settings import read_settings
from pynas.runs.truth import read_truth
from pynas.spaces import Space
from pynas.tabular.correlation import correlations

CORRELATION = "pynas.correlation"
# Spaces of more architectures are not listed one by one.
MOST = 100_000
# Benchmarks that hold accuracies of a space of another name.
BENCHMARKS = {"mbconv-boss": "mbconv-23"}
_LABELS = {"tau": "Kendall τ", "rho": "Spearman ρ", "r": "Pearson R"}


def bench_of(space: Space) -> tabular.Benchmark | None:
    """Return the published accuracies of a space's architectures, None where there are none."""
    name = BENCHMARKS.get(space.name, space.name)
    return tabular.load(name) if name in tabular.BENCHMARKS else None


def bench_scores(scores: Scores, bench: tabular.Benchmark) -> np.ndarray:
    """Return the score of every row of a benchmark, NaN where a path was not rated."""
    return scores.total(map(scores.space.parse, bench.architectures))


def rank(run: Run) -> dict[str, Any]:
    """Write ranking.csv (best first), and where accuracies are published the correlations and their pictures."""
    scores = searched_scores(run)
    content: dict[str, Any] = {}
    if run.space.size <= MOST:
        architectures = list(run.space.architectures())
        total = scores.total(architectures)
        order = np.argsort(total, kind="stable")[: int((~np.isnan(total)).sum())].tolist()
        lines = [f"{run.space.format(architectures[i])},{float(total[i])!r}" for i in order]
        write_text(run.folder / "ranking.csv", "\n".join(["architecture,score", *lines]) + "\n")
        content["ranking"] = {"file": str(run.folder / "ranking.csv"), "architectures": len(lines)}
    bench = bench_of(run.space)
    if bench is not None:
        content["correlation"] = compare(run, scores, bench)
    return content


def searched_scores(run: Run) -> Scores:
    """Return the scores that the run's search.json went by: with its prior or its calibration, or those of the rating."""
    return _searched(run.folder, load_scores(run))


def _searched(folder: Path, scores: Scores) -> Scores:
    path = folder / "search.json"
    return scores_of_search(folder, read_json(path, SEARCH) if path.exists() else None, scores)


def compare(run: Run, scores: Scores, bench: tabular.Benchmark, top: float = 0.25) -> dict[str, Any] | None:
    """Correlate the scores and the trivial baselines, at the end and after each epoch that was rated; regret and nDCG too.

    Writes correlation.json, ranking.png and .svg (figure 6), and convergence.png and .svg (figure 9).
    """
    total = bench_scores(scores, bench)
    rated = ~np.isnan(total)
    if rated.sum() < 3:
        return None
    final = tabular.correlate(total, bench, top=top, resamples=200, seed=run.settings.seed)
    epochs = {
        epoch: _measures(tabular.correlate(bench_scores(some, bench), bench, top=top, resamples=1))
        for epoch, some in epoch_scores(run)
    }
    epochs[run.settings.epochs] = _measures(final)
    title = f"{run.settings.method} on {run.space.name}, {run.settings.data}: {final.count:,} architectures"
    shown = "   ".join(f"{label} {epochs[run.settings.epochs][name]:.3f}" for name, label in _LABELS.items())
    files = draw_ranking(run.folder / "ranking", total[rated], bench.accuracy[rated], title=f"{title}\n{shown}",
                         data_label=bench.data)  # fmt: skip
    if len(epochs) > 1:
        lines = {label: [epochs[epoch][name] for epoch in sorted(epochs)] for name, label in _LABELS.items()}
        files += draw_convergence(run.folder / "convergence", sorted(epochs), lines, title)
    content = {**final.as_dict(), "source": bench.source, "epochs": {str(e): epochs[e] for e in sorted(epochs)},
               "pictures": [path.name for path in files]}  # fmt: skip
    write_json(run.folder / "correlation.json", header(CORRELATION, space=run.space.name) | content)
    return content


def _measures(comparison: Any) -> dict[str, float]:
    """Return the correlations of the scores, their nDCG, and what they find under budgets more than the largest."""
    correlations = {name: getattr(comparison, name) for name in _LABELS}
    found = comparison.regret["scores"]
    return correlations | {"ndcg": comparison.ndcg["scores"], "minus_largest": found.minus_largest}


def epoch_scores(run: Run) -> Iterator[tuple[int, Scores]]:
    """Yield the epochs at which all blocks were rated, with their scores."""
    for folder in sorted(scores_folder(run).glob("epoch_*"), key=_epoch):
        complete = all(Scores.complete(scores_folder(member) / folder.name, run.space) for member in run.members())
        if _epoch(folder) < run.settings.epochs and complete:
            yield _epoch(folder), load_scores(run, folder.name)


def _epoch(folder: Path) -> int:
    number = re.fullmatch(r"epoch_(\d+)", folder.name)
    return int(number[1]) if number else 0


@dataclass(frozen=True)
class Predictor:
    """Scores of a benchmark's rows: values `[N]`, None for no scores; where they come from; lower: whether less is better."""

    values: np.ndarray | None
    source: str | None
    lower: bool


def read_predictor(name: str | None, bench: tabular.Benchmark, lower: bool) -> Predictor:
    """Return the scores of a CSV file or of a run's folder, or the published ones (`published`, or None where there are any).

    Raises:
        InputError: a bad file, a run of another space or without scores, or `published` where none are.
    """
    if name is not None and Path(name).is_dir():
        return Predictor(_scores_of_run(Path(name), bench), name, True)
    if name not in (None, "published"):
        return Predictor(tabular.read_scores(name, bench), name, lower)
    published = tabular.published_scores(bench)
    if published is None and name is not None:
        raise InputError(f"[correlate] expected --scores FILE.csv for {bench.name}, for which none are published, "
                         "got 'published'")  # fmt: skip
    return Predictor(published, None if published is None else "published by BossNAS", lower)


def run_bench(run: Run, name: str | None) -> str:
    """Return the name of the benchmark of a run's space.

    Raises:
        InputError: a space without one, or another benchmark's name.
    """
    bench = bench_of(run.space)
    if bench is None or name not in (None, bench.name):
        raise InputError(f"[correlate] expected a run of the space of {name or 'a benchmark'}, got {run.space.name} in "
                         f"{run.folder}")  # fmt: skip
    return bench.name


def rated_by(run: Run, bench: tabular.Benchmark, loss: str | None, norm: str | None) -> Predictor:
    """Return a run's scores of a benchmark's rows: those that it has, else, or by another loss, its rating of these alone.

    Raises:
        InputError: an unfinished training, or a loss or norm that the method does not rate by.
    """
    if loss is None and norm is None and stored_members(run.folder, run.settings):
        return Predictor(_scores_of_run(run.folder, bench), str(run.folder), True)
    networks = [run.space.parse(name) for name in bench.architectures]
    by = f", by {loss}" if loss else ""
    return Predictor(run.score(networks, loss, norm), f"{run.folder}, of these networks alone{by}", True)


def correlate_with(run: Run, truth: Path, loss: str | None, norm: str | None, stem: Path | None) -> dict[str, Any]:
    """Correlate a run's scores of trained networks with their accuracies, beside their parameters and MAdds; draw the ranking.

    Scores are those that the run's search went by, where it has them and no loss or norm is named, else its supernet rates these
    networks alone.

    truth: CSV file with the columns architecture and accuracy (%). stem: of the pictures, None for ranking-FILE in the run's
    folder.

    Raises:
        InputError: a bad file, or as `rated_by`.
    """
    accuracies = read_truth(truth, run.space)
    networks, known = list(accuracies), np.array(list(accuracies.values()))
    members = stored_members(run.folder, run.settings) if loss is None and norm is None else []
    scores = _searched(run.folder, combined(members)).total(networks) if members else run.score(networks, loss, norm)
    if np.isnan(scores).any():
        unknown = run.space.format(networks[int(np.isnan(scores).argmax())])
        raise InputError(f"[correlate] expected networks of rated paths, got {unknown} in {truth}")
    costs = [run.costs.of(network) for network in networks]
    values = {"scores": -scores} | {name: np.array([cost[name] for cost in costs]) for name in ("params", "madds")}
    rows = {name: dict(zip(_LABELS, correlations(each, known))) for name, each in values.items()}
    shown = "   ".join(f"{label} {rows['scores'][name]:.3f}" for name, label in _LABELS.items())
    title = f"{run.settings.method} on {run.space.name}: {len(networks)} networks of {truth.name}\n{shown}"
    pictures = draw_ranking(stem or run.folder / f"ranking-{truth.stem}", scores, known, title=title)
    return {"networks": len(networks), "truth": str(truth), "rated_alone": not members, "everything": rows,
            "pictures": [str(path) for path in pictures]}  # fmt: skip


def _scores_of_run(folder: Path, bench: tabular.Benchmark) -> np.ndarray:
    """The scores that a run's search went by, or of its rating where there was no search, for every row."""
    settings = read_settings(folder)
    if BENCHMARKS.get(settings.space, settings.space) != bench.name:
        raise InputError(f"[correlate] expected a run of the space of {bench.name}, got {settings.space} in {folder}")
    members = stored_members(folder, settings)
    if not members:
        raise InputError(f"[correlate] expected the scores of every block, got none of some in {folder}; run `pynas rate --run "
                         f"{folder}` first")  # fmt: skip
    return bench_scores(_searched(folder, combined(members)), bench)


def draw(stem: Path, bench: tabular.Benchmark, found: tabular.Comparison, predictor: Predictor) -> list[Path]:
    """Draw the ranking of the scores, or without scores that of the first baseline; return the pictures."""
    values, label, lower, name = predictor.values, "score", predictor.lower, next(iter(found.everything))
    if values is None:
        values, lower, label = tabular.baselines(bench)[name], False, tabular.LABELS[name]
    rated, shown = ~np.isnan(values), found.everything[name]
    title = (f"{bench.name}: {predictor.source or label}, {found.count:,} architectures\n"
             f"Kendall τ {shown.tau:.3f}   Spearman ρ {shown.rho:.3f}   Pearson R {shown.r:.3f}")  # fmt: skip
    return draw_ranking(stem, values[rated], bench.accuracy[rated], lower_is_better=lower, title=title,
                        score_label=label, data_label=bench.data)  # fmt: skip


def draw_side_by_side(
    stem: Path, bench: tabular.Benchmark, predictor: Predictor, others: list[str] | None, seed: int
) -> list[Path]:
    """Draw the rankings of the scores, of other methods' and of the baselines; return the pictures.

    others: `NAME=FILE.csv` of other methods' scores.

    Raises:
        InputError: another form, or a bad file.
    """
    sign = 1 if predictor.lower else -1
    predictors = {} if predictor.values is None else {predictor.source or "scores": sign * predictor.values}
    for text in others or []:
        name, equals, path = text.partition("=")
        if not equals or not name:
            raise InputError(f"[correlate] expected --beside NAME=FILE.csv, got {text!r}")
        predictors[name] = sign * tabular.read_scores(path, bench)
    predictors |= {tabular.LABELS[name]: -more for name, more in tabular.baselines(bench, seed).items()}
    return draw_rankings(
        stem, predictors, bench.accuracy, title=f"{bench.name} ({bench.data}), {len(bench)} architectures"
    )


def statistics(bench: tabular.Benchmark, stem: Path) -> dict[str, Any]:
    """Draw how a benchmark's accuracies are spread and go with parameters and MAdds; return the least, mean and most of each."""
    counted = tabular.costs(bench)
    costs = {name: counted[name] for name in ("params", "madds")}
    title = f"{bench.name}: {len(bench):,} architectures"
    pictures = save_figure(statistics_figure(bench.accuracy, costs, title=title, data_label=bench.data), stem)
    spans = {
        name: {"least": float(values.min()), "mean": float(values.mean()), "most": float(values.max())}
        for name, values in {"accuracy": bench.accuracy, **costs}.items()
    }
    return {"benchmark": bench.name, "data": bench.data, "count": len(bench), "source": bench.source, **spans,
            "pictures": [str(path) for path in pictures]}  # fmt: skip
