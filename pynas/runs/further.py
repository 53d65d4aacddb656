"""Rules that a search takes beside its limits, and findings beside the best architectures: front, diverse ones, prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from pynas import search
from pynas.errors import InputError
from pynas.report import draw_front
from pynas.runs.limits import Limits
from pynas.runs.request import Request
from pynas.runs.run import Run
from pynas.spaces import Space


class How(TypedDict):
    """How the scores of the exact searches join, and which paths they may take: arguments of `pynas.search.best`."""

    weights: Sequence[float] | None
    join: str
    allowed: search.Rules | None


def rules_of(run: Run, request: Request) -> search.Rules | None:
    """Return the rules of a request; None where it has none.

    Raises:
        InputError: as `pynas.search.Rules`.
    """
    return search.Rules(run.space, request.fix, request.forbid) if request.fix or request.forbid else None


def allowed_of(scored: Sequence[tuple[Any, float]], rules: search.Rules | None) -> Sequence[tuple[Any, float]]:
    """Return those of a few scored architectures, (architecture, score) pairs, that break no rule.

    Raises:
        InputError: there are none; the rule after which none is left is named.
    """
    if rules is None:
        return scored
    for rule in rules.rules:
        scored = [pair for pair in scored if rule not in rules.broken(pair[0])]
        if not scored:
            raise InputError(f"[search] expected rules that one of the rated architectures keeps, got none that {rule} leaves; "
                             "drop or change it")  # fmt: skip
    return scored


def beside(
    run: Run, request: Request, scores: Any, costs: Any, limits: Limits, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Find the diverse architectures and the prices that a request asks for; return their parts of search.json."""
    content: dict[str, Any] = {}
    if request.diverse is not None and request.distance is not None:
        found = search.diverse(
            scores, costs, limits.upper, request.diverse, distance=request.distance, at_least=limits.lower, **how
        )
        listed = [{**entry, "distances": row[:number].tolist()}
                  for number, (entry, row) in enumerate(zip(entries(run.space, found), found.distances))]  # fmt: skip
        visited = sum(each.certificate.visited for each in found.found)
        content["diverse"] = {"asked": request.diverse, "distance": request.distance, "exhausted": found.exhausted,
                              "visited": visited, "architectures": listed}  # fmt: skip
    if request.prices:
        priced = search.prices(scores, costs, limits.upper, at_least=limits.lower, **how)
        content["prices"] = [asdict(price) | {"binding": price.binding} for price in priced]
    return content


def entries(space: Space, found: Iterable[search.Entry]) -> list[dict[str, Any]]:
    """Return architectures with scores and costs as search.json holds them."""
    return [{"architecture": space.format(e.architecture), "score": e.score, **e.costs} for e in found]


def draw(run: Run, front: search.Front, content: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the front, and return its part of search.json."""
    name = front.names[0]
    points = [(entry.costs[name], entry.score) for entry in front]
    chosen = [(entry[name], entry["score"]) for entry in content["found"]]
    files: list[Path] = draw_front(run.folder / f"front-{name}", name, points, chosen, content["limits"].get(name))
    pictures = [path.name for path in files]
    return {"front": {"cost": name, "pictures": pictures, "architectures": entries(run.space, front)}}
