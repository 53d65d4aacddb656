"""Reasons why a run's search did not choose a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pynas import search
from pynas.errors import InputError
from pynas.files import header, read_json
from pynas.rating.averaging import combined
from pynas.runs.further import entries, rules_of
from pynas.runs.joined import scores_of_search
from pynas.runs.rate import load_members
from pynas.runs.request import request_of
from pynas.runs.run import Run
from pynas.runs.search import SEARCH, gather_costs, search_device
from pynas.spaces import Architecture, Choice


def explain(run: Run, architecture: Architecture | str) -> dict[str, Any]:
    """Say how a network stands in the run's last search: under its limits and rules, by its scores (`pynas.search.explain`).

    architecture: of the run's space, also as text. The result has architectures as text and is ready for JSON.

    Raises:
        InputError: no search, one of a method that rates whole networks or in generations, or as `pynas.search.explain`.
    """
    if not (run.folder / "search.json").exists():
        raise InputError(
            f"[explain] expected a search, got no {run.folder / 'search.json'}; run `pynas search {run.folder}` first"
        )
    content = read_json(run.folder / "search.json", SEARCH)
    if "generations" in content:
        last = content["generations"][-1]["folder"]
        raise InputError(f"[explain] expected the run of one generation, got all of dna-plus; name {run.folder / last}")
    if "rated" in content:
        raise InputError(f"[explain] expected a search of rated paths, got one of {content['rated']:,} whole networks "
                         f"({content['search']}), which has no scores of others")  # fmt: skip
    request = request_of(content)
    scores, costs = scores_of_search(run.folder, content, combined(load_members(run))), gather_costs(run, request)
    said = search.explain(
        scores, costs, architecture, request.limits,
        at_least=request.at_least, weights=request.weights, join=request.join, allowed=rules_of(run, request),
        device=search_device(run),
    )  # fmt: skip
    return header("pynas.explanation", space=run.space.name) | _as_json(run, content, said)


def _as_json(run: Run, content: Mapping[str, Any], said: search.Explanation) -> dict[str, Any]:
    (entry, best), beaten = entries(run.space, (said.entry, said.best)), said.beaten_by
    fits = not said.broken and not said.rules
    return {
        **entry,
        "limits": content["limits"],
        "at_least": content["at_least"],
        "space_size": run.space.size,
        "broken": [vars(each) for each in said.broken],
        "rules": list(said.rules),
        "better": said.better,
        "counted": said.counted,
        "rank": said.better + 1 if fits and said.counted else None,
        "best": best,
        "compared": list(said.compared),
        "beaten_by": None if beaten is None else entries(run.space, [beaten])[0],
        "blocks": [
            {"choice": _text(b.choice), "score": b.score, "best": _text(b.best), "best_score": b.best_score, "rank": b.rank,
             "paths": b.paths} for b in said.blocks
        ],
    }  # fmt: skip


def _text(choice: Choice) -> str:
    return str(Architecture((choice,)))
