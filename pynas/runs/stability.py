"""Networks that a search would have found after each of several epochs (DNA, figure 8)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from pynas import search
from pynas.errors import InputError
from pynas.export.recipes import recipe_of
from pynas.files import header, read_json, write_json
from pynas.rating import Scores
from pynas.report.figures import save_figure
from pynas.report.stability import stability_figure
from pynas.report.training import joined_metrics, read_metrics
from pynas.runs.correlate import bench_of
from pynas.runs.rate import epoch_part, own_scores, rate_paths, scores_folder
from pynas.runs.request import Request
from pynas.runs.retrain import RETRAINING, filled, retrain
from pynas.runs.retrain import Request as Retraining
from pynas.runs.run import Run
from pynas.runs.search import find_limits, search_device
from pynas.runs.truth import read_truth
from pynas.spaces import Architecture
from pynas.tabular.robustness import sampled_totals
from pynas.train.checkpoint import epoch_file

STABILITY = "pynas.stability"


def stability(
    run: Run,
    limits: Mapping[str, Any] | None = None,
    truth: Path | None = None,
    training: Retraining | None = None,
) -> dict[str, Any]:
    """Rate the weights kept after each epoch of `keep_epochs`, search each, and compare; write and return stability.json.

    BossNAS has rated these epochs while it trained. stability.png and .svg show the result; what is rated is not rated again.

    limits: of the search, as `Run.search` takes them. truth: CSV file of trained networks' accuracies, None for the published
    ones of the space, where there are any. training: retrain each network found whose accuracy is not in `truth`, once, in a folder
    `retraining/stability-EPOCH-KEY` named after the first epoch that found it and the request; None trains none.

    Raises:
        InputError: a method that rates no paths, an unfinished training, or no epoch whose weights or scores were kept.
    """
    if not run.recipe.defaults.averages:
        raise InputError(f"[stability] expected a method that rates paths, got {run.settings.method}")
    if run.options.get("strategy", "concurrent") != "concurrent":
        raise InputError(f"[stability] expected blocks that train at a time, got strategy={run.options['strategy']}")
    last = own_scores(run)
    epochs = _epochs(run)
    rated = {epoch: _scores_after(run, epoch, last) for epoch in epochs} | {run.settings.epochs: last}
    bounds = find_limits(run, Request(limits or {}), run.costs)
    known, losses = _accuracies(run, truth), _losses(run)
    _, tau = sampled_totals(list(rated.values()))
    rows = []
    for number, (epoch, scores) in enumerate(rated.items()):
        found = search.best(scores, run.costs, bounds.upper, at_least=bounds.lower, device=search_device(run))[0]
        row = {"epoch": epoch, "loss": losses.get(epoch), "found": run.space.format(found.architecture), "score": found.score,
               "tau_to_last": tau[number][-1],
               "accuracy": known.get(found.architecture) if training is None or truth is not None else None,
               "accuracy_tau": _accuracy_tau(scores, known), "retraining": None}  # fmt: skip
        if training is not None and row["accuracy"] is None:
            row |= _retrained(run, replace(training, architecture=str(found.architecture)), epoch)
        rows.append(row)
    title = f"{run.settings.method} on {run.space.name}, {run.settings.data}"
    pictures = save_figure(stability_figure(rows, title), run.folder / "stability")
    content = header(STABILITY, space=run.space.name, data=run.data.fingerprint) | {
        "limits": bounds.upper, "at_least": bounds.lower, "epochs": rows, "pictures": [path.name for path in pictures]}  # fmt: skip
    write_json(run.folder / "stability.json", content)
    return content


def _retrained(run: Run, training: Retraining, epoch: int) -> dict[str, Any]:
    """Retrain a network, or read what its retraining measured; return its test accuracy (%) and the folder's name."""
    request = asdict(filled(training, recipe_of(training.recipe)))
    key = hashlib.blake2b(json.dumps(request).encode(), digest_size=4).hexdigest()
    folder = run.folder / "retraining"
    name = next((path.name for path in folder.glob(f"stability-*-{key}")), f"stability-{epoch}-{key}")
    report = folder / name / "report.json"
    done = read_json(report, RETRAINING) if report.exists() else retrain(run, replace(training, name=name))
    return {"accuracy": 100 * done["top1"], "retraining": name}


def _epochs(run: Run) -> list[int]:
    """Epochs before the last whose weights or scores the run has, rising."""
    names = [path.name for path in (*run.folder.glob("checkpoints/epoch_*"), *scores_folder(run).glob("epoch_*"))]
    found = {int(number[1]) for name in names if (number := re.match(r"epoch_(\d+)", name))}
    epochs = sorted(epoch for epoch in found if epoch < run.settings.epochs)
    if not epochs:
        raise InputError(f"[stability] expected weights of epochs before the last, got none in {run.folder}; train with "
                         "--keep-epochs, as 2,4,8")  # fmt: skip
    return epochs


def _scores_after(run: Run, epoch: int, last: Scores) -> Scores:
    """Return the scores after an epoch, by the loss and norm of the last ones."""
    if (run.folder / epoch_file(epoch)).exists():  # rated already, from these weights and alike: the scores are read
        return rate_paths(run, last.metadata["loss"], last.metadata["norm"], epoch)
    return own_scores(run, epoch_part(epoch))


def _accuracies(run: Run, truth: Path | None) -> Mapping[Architecture, float]:
    if truth is not None:
        return read_truth(truth, run.space)
    bench = bench_of(run.space)
    if bench is None:
        return {}
    return dict(zip(map(run.space.parse, bench.architectures), bench.accuracy.tolist()))


def _accuracy_tau(scores: Scores, known: Mapping[Architecture, float]) -> float | None:
    """Kendall's tau between scores and accuracies, positive where better scores go with higher ones; None for fewer than 3."""
    if len(known) < 3:
        return None
    totals = scores.total(known)
    rated = ~np.isnan(totals)
    return (
        float(kendalltau(-totals[rated], np.array(list(known.values()))[rated]).statistic) if rated.sum() > 2 else None
    )


def _losses(run: Run) -> dict[int, float]:
    """Mean over each epoch of the sum of the blocks' training losses."""
    paths: Sequence[Path] = [run.folder / "metrics.jsonl", *sorted((run.folder / "training").glob("*/metrics.jsonl"))]
    by_epoch: dict[int, list[float]] = {}
    for step in joined_metrics([read_metrics(path) for path in paths if path.exists()]):
        blocks = [loss for name, loss in step["losses"].items() if name != "head"]
        by_epoch.setdefault(step["epoch"], []).append(sum(blocks))
    return {epoch: float(np.mean(losses)) for epoch, losses in by_epoch.items()}
