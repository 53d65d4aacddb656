"""Stages of methods that rate whole networks by their error: search by trial, or a table of all networks."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pynas import search
from pynas.checked import AtLeastOne
from pynas.errors import InputError
from pynas.evaluation import ErrorRate, last_layer_paths, path_similarity
from pynas.files import write_json, write_text
from pynas.rating import Scores, ScoreTable
from pynas.rating.scores import block_file
from pynas.report import draw_consistency, draw_progress
from pynas.runs.further import entries
from pynas.runs.limits import Limits
from pynas.runs.options import loader_options
from pynas.runs.rate import rated_block, scores_folder
from pynas.runs.run import Request, Run
from pynas.runs.search import find_exactly, find_limits, gather_costs, latency_note, search_content
from pynas.runs.spent import spending
from pynas.runs.truth import RATINGS
from pynas.spaces import Architecture

LOSS = "error"
SEARCHES: dict[str, Callable[..., Any]] = {
    "action-space": search.learn_action_space,
    "evolution": functools.partial(search.evolve, together=8),  # their images are read once
    "random": search.random_search,
}
# search: one of SEARCHES, or all: rate every architecture, then search exactly. budget: architectures that a search rates.
# calibration_batches: training batches to re-estimate batch norm on.
STAGES = {
    **loader_options(),
    "search": (Literal["action-space", "evolution", "random", "all"], "action-space"),
    "budget": (AtLeastOne, 200),
    "calibration_batches": (AtLeastOne, 4),
}
# Architectures that `all` rates between two writes of the scores so far.
_BETWEEN_WRITES = 64
# Architectures that `all` rates at most.
_MOST = 2**24


def error_rate(run: Run, net: Any, norm: str) -> ErrorRate:
    """Return the rating by the error on the validation images, with batch norm re-estimated on training images."""
    calibration = itertools.islice(run.loader("train"), run.options["calibration_batches"])
    return ErrorRate(net, run.loader("val"), calibration, norm)


def rate_networks(run: Run, net: Any, digest: str, norm: str) -> Scores | None:
    """Draw consistency.png; with search=all, return and keep the errors of all architectures, else None.

    net, digest: the trained supernet and the digest of its weights.

    Raises:
        InputError: search=all in a space of several blocks or cells, or of too many architectures.
    """
    run.count_costs()
    _draw_consistency(run, net)
    if run.options["search"] != "all":
        return None
    if len(run.space) > 1 or len(run.space.blocks[0]) > 1:
        raise InputError(f"[rate] expected a space of one cell for search=all, got {run.space}; use another search")
    if run.space.size > _MOST:
        raise InputError(f"[rate] expected a space of at most {_MOST:,} architectures for search=all, got "
                         f"{run.space.size:,} in {run.space}; use another search")  # fmt: skip
    metadata = {"checkpoint": digest, "data": run.data.fingerprint, "loss": LOSS, "norm": norm}
    tables = rated_block(run, 0, metadata)
    fresh = tables is None
    if tables is None:
        partial = block_file(scores_folder(run), 0).with_name(f".{digest[:8]}-{run.data.fingerprint[:8]}-{norm}.npz")
        tables = [rate_all(error_rate(run, net, norm), partial, run.progress.count())]
    scores = Scores(run.space, [tables], metadata)
    if fresh:
        scores.save(scores_folder(run))
    paths, errors = tables[0].rated()
    _write_ratings(run, [Architecture.of([(0, path)]) for path in paths.tolist()], errors)
    return scores


def rate_all(rating: ErrorRate, partial: Path, report: Callable[[int, int], None]) -> ScoreTable:
    """Return the errors of all architectures of a space of one cell; those that the file `partial` holds are read."""
    space = rating.net.space
    everything = list(space.architectures())
    scores = ScoreTable.load(partial).scores if partial.exists() else np.full(space.blocks[0][0].counts, np.nan)
    left = [architecture for architecture in everything if np.isnan(scores[architecture[0].path])]
    for start in range(0, len(left), _BETWEEN_WRITES):
        part = left[start : start + _BETWEEN_WRITES]
        for architecture, error in zip(part, rating.many(part)):
            scores[architecture[0].path] = error
        ScoreTable(scores).save(partial)
        report(len(everything) - len(left) + start + len(part), len(everything))
    partial.unlink(missing_ok=True)
    return ScoreTable(scores)


def find_by_trial(run: Run, request: Request, trained: Callable[[], tuple[Any, str]]) -> dict[str, Any]:
    """Search exactly where everything is rated, else by trial; write and return search.json.

    A search by trial keeps its ratings in the folder `ratings`, goes on where it was stopped, and draws its best so far.

    trained: called where a net has to be rated, returns the trained supernet and the digest of its weights.

    Raises:
        InputError: a request that a search by trial cannot fulfil.
    """
    name = run.options["search"]
    if name == "all":
        return find_exactly(run, request)
    if request.needs_tables or request.fix or request.forbid:
        raise InputError("[search] expected limits alone, as a search by trial knows no fronts, weights, priors, prices or rules; "
                         "use --option search=all")  # fmt: skip
    costs = gather_costs(run, request)
    limits = find_limits(run, request, costs)
    net, digest = trained()
    with spending(run, "rate"):
        history = _search(run, name, costs, limits, net, digest)
    top = history.top(request.top_k)
    content = search_content(
        run, request, limits, entries(run.space, top), exhausted=history.exhausted and len(top) < request.top_k,
        search=name, rated=len(history), best_so_far=history.best_so_far.tolist(), **latency_note(costs),
    )  # fmt: skip
    write_json(run.folder / "search.json", content)
    _write_ratings(run, history.architectures, history.scores)
    draw_progress(run.folder / "search", {name: [history.best_so_far]})
    return content


def _search(run: Run, name: str, costs: Any, limits: Limits, net: Any, digest: str) -> search.History:
    """Return the ratings of a search; its file is named after weights, images and limits, so that others begin anew."""
    norm, budget = run.recipe.defaults.norms[0], run.options["budget"]
    made_from = [digest, run.data.fingerprint, limits.upper, limits.lower, norm]
    key = hashlib.blake2b(json.dumps(made_from).encode(), digest_size=4).hexdigest()
    rating, report = error_rate(run, net, norm), run.progress.count("search")
    file = run.folder / "ratings" / f"{name}-{key}.json"
    return SEARCHES[name](run.space, rating, budget, seed=run.settings.seed, costs=costs, limits=limits.upper,
                          at_least=limits.lower, file=file, progress=report)  # fmt: skip


def _write_ratings(run: Run, architectures: Sequence[Architecture], errors: np.ndarray) -> None:
    """Write the ratings as a CSV file, which `pynas correlate --scores` reads."""
    lines = [f"{run.space.format(architecture)},{error}" for architecture, error in zip(architectures, errors.tolist())]
    write_text(run.folder / RATINGS, "\n".join(["architecture,score", *lines, ""]))


def _draw_consistency(run: Run, net: Any) -> None:
    """Draw how alike paths that differ in the last layer see the validation images."""
    paths = last_layer_paths(run.space, np.random.default_rng(run.settings.seed))
    batches = itertools.islice(run.loader("val"), run.options["calibration_batches"])
    draw_consistency(run.folder / "consistency", {run.settings.method: path_similarity(net, batches, paths)})
