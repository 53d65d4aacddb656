"""Methods that train the supernet as a whole (Pi-NAS, SPOS, FairNAS): the error of whole architectures, search by trial."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas import methods, search
from pynas.runs import search as finding
from pynas.runs import stages
from pynas.cli.display import Show, progress_bar
from pynas.runs.recipe import LOADER, Flow
from pynas.runs.stages import Run
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.files import write_json, write_text
from pynas.rating import ScoreTable
from pynas.evaluation.consistency import last_layer_paths, path_similarity
from pynas.rating.scores import load_block, save_block
from pynas.evaluation.error_rate import ErrorRate
from pynas.report import draw_consistency, draw_progress
from pynas.spaces import Architecture
from pynas.tensor_files import read_tensors
from pynas.train import fit
from pynas.train.checkpoint import CHECKPOINT
from pynas.train.loop import LAST

LOSS = "error"
SEARCHES: dict[str, Callable[..., Any]] = {
    "action-space": search.learn_action_space,
    "evolution": search.evolve,
    "random": search.random_search,
}
# Options beside the method's. search: one of SEARCHES, or all: rate every architecture, then search exactly.
# budget: architectures that a search rates. calibration_batches: training batches to re-estimate batch norm on.
LATER = {**LOADER, "search": "action-space", "budget": 200, "calibration_batches": 4}
# Architectures that `all` rates between two writes of what is rated so far.
_BETWEEN_WRITES = 64


def chosen(run: Run) -> dict[str, Any]:
    """The run's options, with the defaults for those left open.

    Raises:
        InputError: an unknown search.
    """
    options = run.options
    if options["search"] not in (*SEARCHES, "all"):
        raise InputError(f"[run] expected search to be one of {', '.join(SEARCHES)}, all, got {options['search']!r}")
    return options


def build(run: Run, show: Show) -> Any:
    """The method on the run's supernet."""
    chosen(run)
    return run.flow.method(run.net, **run.method_options)


def train(run: Run, show: Show) -> None:
    """Train the supernet."""
    chosen(run)
    stages.train(run, show)


def ready(run: Run, show: Show) -> tuple[Any, str]:
    """The trained supernet with its classifier, and the digest of these weights.

    A method that learns without labels first gets a classifier by linear evaluation, kept in the folder `linear`.
    """
    method, digest = run.trained_method()
    options = chosen(run)
    if "linear_epochs" not in options:
        return method.net, digest
    linear = methods.LinearEvaluation(method.net, learning_rate=options["linear_rate"]).to(run.device)
    folder, loader = run.folder / "linear", run.loader("train", "standard")
    fit(
        linear, loader, options["linear_epochs"], folder, seed=run.settings.seed, on_step=show.steps("train classifier")
    )
    return linear.net, read_tensors(folder / LAST, CHECKPOINT).digest


def error_rate(run: Run, net: Any, norm: str) -> ErrorRate:
    """The error on the validation images, with batch norm re-estimated on training images."""
    calibration = itertools.islice(run.loader("train"), chosen(run)["calibration_batches"])
    return ErrorRate(net, run.loader("val"), calibration, norm)


def rate(run: Run, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """With search=all, the table of all architectures' errors; else none, as the search rates what it looks at.

    Draws consistency.png.

    Raises:
        InputError: another loss, or search=all in a space of several blocks or cells.
    """
    if loss != LOSS:
        raise InputError(
            f"[rate] expected the loss {LOSS!r}, as {run.settings.method} rates whole networks, got {loss!r}"
        )
    net, digest = ready(run, show)
    if not stages.is_first_process():
        return []
    stages.costs(run)
    draw_paths(run, net)
    if chosen(run)["search"] != "all":
        return []
    if len(run.space) > 1 or len(run.space.blocks[0]) > 1:
        raise InputError(f"[rate] expected a space of one cell for search=all, got {run.space}; use another search")
    path, metadata = run.folder / "scores" / "block_1.npz", {"checkpoint": digest, "data": run.data.fingerprint,
                                                              "loss": loss, "norm": norm}  # fmt: skip
    table, before = load_block(path) if path.exists() else ([], {})
    if before != metadata:
        table = [rate_all(error_rate(run, net, norm), path.with_name(f".{digest[:8]}-{norm}.npz"), show.paths())]
        save_block(path, table, **metadata)
    paths, errors = table[0].rated()
    write_ratings(run, [Architecture.of([(0, path)]) for path in paths.tolist()], errors)
    return [table]


def write_ratings(run: Run, architectures: Sequence[Architecture], errors: np.ndarray) -> None:
    """ratings.csv: what `pynas correlate --scores` reads."""
    lines = [f"{run.space.format(architecture)},{error}" for architecture, error in zip(architectures, errors.tolist())]
    write_text(run.folder / "ratings.csv", "\n".join(["architecture,score", *lines, ""]))


def draw_paths(run: Run, net: Any) -> None:
    """consistency.png: how alike paths that differ to the last layer see the validation images."""
    paths = last_layer_paths(run.space, np.random.default_rng(run.settings.seed))
    batches = itertools.islice(run.loader("val"), chosen(run)["calibration_batches"])
    draw_consistency(run.folder / "consistency", {run.settings.method: path_similarity(net, batches, paths)})


def rate_all(rating: ErrorRate, partial: Path, report: Callable[[int, int], None] | None) -> ScoreTable:
    """The errors of all architectures of a space of one cell; what `partial` holds is not rated again."""
    space = rating.net.space
    everything = [Architecture((choice,)) for choice in space.paths(0)]
    scores = ScoreTable.load(partial).scores if partial.exists() else np.full(space.blocks[0][0].counts, np.nan)
    left = [architecture for architecture in everything if np.isnan(scores[architecture[0].path])]
    for start in range(0, len(left), _BETWEEN_WRITES):
        part = left[start : start + _BETWEEN_WRITES]
        for architecture, error in zip(part, rating.many(part)):
            scores[architecture[0].path] = error
        ScoreTable(scores).save(partial)
        if report is not None:
            report(len(everything) - len(left) + start + len(part), len(everything))
    partial.unlink(missing_ok=True)
    return ScoreTable(scores)


def find(run: Run, wishes: finding.Wishes) -> dict[str, Any]:
    """Exact search where everything is rated, else search by trial; writes and returns search.json.

    A search by trial keeps its ratings in the folder `ratings`, goes on where it was stopped, and draws its best so far.

    Raises:
        InputError: wishes that a search by trial does not know.
    """
    options = chosen(run)
    if options["search"] == "all":
        return finding.find(run, wishes)
    if wishes.front is not None or wishes.at_least or wishes.weights is not None:
        raise InputError("[search] expected upper limits alone, as a search by trial knows no fronts, lower limits or "
                         "weights; use --option search=all")  # fmt: skip
    table = finding.gather_costs(run, wishes)
    limits = dict(wishes.limits) or {"madds": finding.half_way(run.space, table, "madds")}
    history = search_by_trial(run, options["search"], options["budget"], table, limits)
    top = history.top(wishes.top_k)
    content = finding.search_content(
        run, wishes, limits, finding.entries(run.space, top), exhausted=history.exhausted and len(top) < wishes.top_k,
        search=options["search"], rated=len(history), best_so_far=history.best_so_far.tolist(),
        **finding.latency_note(table),
    )  # fmt: skip
    write_json(run.folder / "search.json", content)
    write_ratings(run, history.architectures, history.scores)
    draw_progress(run.folder / "search", {options["search"]: [history.best_so_far]})
    return content


def search_by_trial(run: Run, name: str, budget: int, table: Costs, limits: Mapping[str, float]) -> search.History:
    """What a search rated within the limits; its file goes by the weights and the limits, so others begin anew."""
    with progress_bar() as progress:
        show = Show(progress)
        net, digest = ready(run, show)
        key = hashlib.blake2b(json.dumps([digest, limits, run.flow.norm]).encode(), digest_size=4).hexdigest()
        rating = _counted(error_rate(run, net, run.flow.norm), budget, show.paths("search"))
        file, seed = run.folder / "ratings" / f"{name}-{key}.json", run.settings.seed
        return SEARCHES[name](run.space, rating, budget, seed=seed, costs=table, limits=limits, file=file)


def _counted(
    rating: Callable[[Architecture], float], budget: int, report: Callable[[int, int], None] | None
) -> Callable[[Architecture], float]:
    """The rating, with a report of how many are done."""
    numbers = itertools.count(1)

    def rate(architecture: Architecture) -> float:
        score = rating(architecture)
        if report is not None:
            report(next(numbers), budget)
        return score

    return rate


def export_found(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """The network with the classifier of the linear evaluation."""
    return stages.export_from(run, *ready(run, Show(None)), architecture)


def _flow(method: Callable[..., Any], views: int = 1, **options: Any) -> Flow:
    return Flow(method, build, train, rate, find, export_found, space="nasbench201-mini", views=views, loss=LOSS,
                norm="recalibrate", **options)  # fmt: skip


# Defaults for images as few and small as the digits; Pi-NAS's own are for ImageNet.
SMALL = {"queue_size": 1024, "projector_norm": True, "momentum": 0.99, "learning_rate": 0.06}
FLOWS = {
    "pinas": _flow(methods.PiNAS, 4, defaults=SMALL, more={**LATER, "linear_epochs": 20, "linear_rate": 0.3}),
    "spos": _flow(methods.spos, more=LATER),
    "fairnas": _flow(methods.fairnas, more=LATER),
}
