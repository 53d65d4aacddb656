"""The search stage: limits, costs, the best architectures, the front, search.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pynas import search
from pynas.costs import Costs, cost_range, count_module, load, log_width
from pynas.costs.latency import NAME as LATENCY
from pynas.costs.log_width import NAME as LOG_WIDTH
from pynas.errors import InfeasibleError, InputError
from pynas.files import header, write_json
from pynas.methods import fit_block_weights
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.runs.agreement import agreement, alike
from pynas.runs.further import How, allowed_of, beside, draw, entries, rules_of
from pynas.runs.joined import joined_scores, keep_joined, reranked
from pynas.runs.latency import latencies, latency_note, named_latencies
from pynas.runs.limits import Limits, resolve
from pynas.runs.own_costs import read_own
from pynas.runs.proxy_cost import proxy_cost
from pynas.runs.rate import load_members
from pynas.runs.request import WORKLOAD, Request, check_prior
from pynas.runs.run import Run
from pynas.runs.truth import read_truth
from pynas.search.limits import Share

SEARCH = "pynas.search"


def find_exactly(run: Run, request: Request) -> dict[str, Any]:
    """Search the rated blocks exactly; write and return search.json, and draw the front where one is asked for."""
    members, costs = load_members(run), gather_costs(run, request)
    joined = joined_scores(run.folder, request, members, costs)
    scores = joined.scores
    if len(members) > 1 and request.join == "product":
        raise InputError("[search] expected join sum, as scores averaged over seeds are centred at 0, got product")
    fitted = None
    if request.trained is not None:
        fitted = fitted_weights(scores, request)
        request = replace(request, weights=fitted["weights"])
    limits = find_limits(run, request, costs)
    how: How = {"weights": request.weights, "join": request.join, "allowed": rules_of(run, request)}

    def find(top_k: int) -> search.Found:
        return search.best(scores, costs, limits.upper, top_k, at_least=limits.lower, device=search_device(run), **how)

    found = find(request.top_k)
    certificate = found.certificate
    seeds = {"seeds": len(members)} if run.recipe.defaults.averages else {}
    content = search_content(
        run, request, limits, entries(run.space, found), exhausted=found.exhausted, space_size=certificate.space_size,
        visited=certificate.visited, pruned=certificate.pruned, lower_bound=certificate.lower_bound,
        **seeds, **joined.note, **({} if fitted is None else {"fitted": fitted}), **latency_note(costs),
    )  # fmt: skip
    if joined.note.get("calibrated", {}).get("model") == "gp":
        _rerank(run, members, costs, found, content)
    if len(members) > 1 and joined.scale is not None:
        listed_by = request.front or next(iter(request.limits), "madds")
        scaled = [joined.scale * weight for weight in request.weights or [1.0] * len(scores)]
        count, cheapest = alike(members, find, scaled, listed_by)
        content["agreement"] = agreement(members, scaled) | count | {"cheapest": entries(run.space, cheapest)}
    if request.front is not None:
        content |= draw(run, search.front(scores, costs, request.front, **how), content)
    content |= beside(run, request, scores, costs, limits, {**how, "device": search_device(run)})
    keep_joined(run.folder, joined)
    write_json(run.folder / "search.json", content)
    return content


def search_device(run: Run) -> str | None:
    """Return where the exact search has its long lists: on the run's device; None where any GPU will do, if there is need."""
    return None if run.device.type == "cuda" and run.device.index is None else str(run.device)


def _rerank(run: Run, members: Sequence[Scores], costs: Any, found: search.Found, content: dict[str, Any]) -> None:
    """Order the entries of search.json by the predictions of the calibration's Gaussian process, which they get."""
    wide = costs if LOG_WIDTH in costs.names else costs | log_widths(run)
    predictions = reranked(run.folder, combined(members), wide, found)
    both = [entry | prediction for entry, prediction in zip(content["found"], predictions)]
    content["found"] = sorted(both, key=lambda entry: -entry["predicted"])


def fitted_weights(scores: Scores, request: Request) -> dict[str, Any]:
    """Return block weights fitted to the accuracies of trained networks, and how well they order these networks.

    Raises:
        InputError: weights given too, or a file that does not fit.
    """
    if request.weights is not None:
        raise InputError("[search] expected --weights or --trained, got both")
    assert request.trained is not None
    truth = read_truth(request.trained, scores.space)
    fitted = fit_block_weights(scores, list(truth), list(truth.values()))
    return {**asdict(fitted), "networks": len(truth)}


def find_limits(run: Run, request: Request, costs: Any) -> Limits:
    """Return the request's limits as numbers.

    A share is of the greatest cost in the space, over all its networks whether rated or not, or of the teacher, which is
    counted as `count_module` does for one image of the run.

    Raises:
        InputError: an unknown cost, a share of the teacher where the method has none, or of a cost that it is not counted by.
    """

    def whole(name: str, share: Share) -> float:
        if not share.of_teacher:
            return cost_range(run.space, costs, name)[1]
        teacher = run.recipe.teacher(run)
        if teacher is None:
            raise InputError(f"[search] expected a share of the largest network for {name}, as {run.settings.method} has no "
                             f"teacher, got {float(share.percent):g}% of it")  # fmt: skip
        counted, _ = count_module(teacher.module, run.data.image_shape)
        if name not in counted:
            raise InputError(f"[search] expected a share of the teacher's {', '.join(counted)}, got one of its {name}, which "
                             "is not counted; give a number, or a share of the largest network")  # fmt: skip
        return counted[name]

    return resolve(request.limits, request.at_least, whole)


def find_among(
    run: Run, request: Request, scored: Sequence[tuple[Any, float]], costs: Any, name: str
) -> dict[str, Any]:
    """Find the best of a few scored architectures within the limits; write and return search.json.

    scored: (architecture, score) pairs. name: says which architectures these are.

    Raises:
        InputError: a request that needs the scores of all paths.
        InfeasibleError: none of them keeps the limits.
    """
    if request.needs_tables:
        raise InputError(f"[search] expected limits alone, as {run.settings.method} searches {name} only, which has no "
                         "fronts, weights, priors, prices, diverse or trained networks")  # fmt: skip
    limits = find_limits(run, request, costs)
    kept = allowed_of(scored, rules_of(run, request))
    spent = [costs.of(architecture) for architecture, _ in kept]
    inside = [
        {"architecture": run.space.format(architecture), "score": score, **cost}
        for (architecture, score), cost in zip(kept, spent)
        if limits.keep(cost)
    ]
    if not inside:
        named = {*limits.upper, *limits.lower}
        ranges = {cost: [min(each[cost] for each in spent), max(each[cost] for each in spent)] for cost in named}
        raise InfeasibleError(f"[search] expected limits that one of the {len(kept)} rated architectures keeps, got at most "
                              f"{dict(limits.upper)} and at least {dict(limits.lower)}; their costs go from and to "
                              f"{ranges}")  # fmt: skip
    inside.sort(key=lambda entry: (entry["score"], entry["params"]))
    content = search_content(
        run,
        request,
        limits,
        inside[: request.top_k],
        exhausted=len(inside) < request.top_k,
        search=name,
        rated=len(scored),
    )
    write_json(run.folder / "search.json", content)
    return content


def gather_costs(run: Run, request: Request) -> Costs:
    """Return the counted costs, the user's own, and those that are measured, where they are named."""
    costs = run.costs
    for own in request.costs:
        costs = costs | read_own(str(own), run.space)
    measured: dict[str, Callable[[Run], Any]] = {
        LATENCY: lambda run: latencies(run, request.workload(run.device)), LOG_WIDTH: log_widths
    }  # fmt: skip
    for name in request.named_costs:
        if name.startswith(f"{LATENCY}@"):
            measured[name] = partial(named_latencies, cost=name)
    prior = request.prior
    if prior is not None and prior not in costs.names:
        check_prior(prior, costs.names)
        measured.setdefault(prior, lambda run: proxy_cost(run, prior))
    for name in sorted(request.named_costs - set(measured)):
        costs[name]  # an unknown cost is refused before anything is measured
    for name, measure in measured.items():
        if name in request.named_costs and name not in costs.names:
            costs = costs | measure(run)
    return costs


def log_widths(run: Run) -> Any:
    """Return the run's cost `log_width`, computed once and kept as `log_width.npz`."""
    path = run.folder / "log_width.npz"
    if not path.exists():
        log_width(run.net, run.data.image_shape).save(path)
    return load(path)


def search_content(
    run: Run, request: Request, limits: Limits, found: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """Return the content of search.json: the request, what its search adds, and the architectures found, best first."""
    untrained = {} if run.settings.untrained_teacher is None else {"untrained_teacher": run.settings.untrained_teacher}
    return header(SEARCH, space=run.space.name, data=run.data.fingerprint, **untrained) | {
        "limits": dict(limits.upper),
        "at_least": dict(limits.lower),
        **({"shares": limits.shares} if limits.shares else {}),
        **{name: list(texts) for name in ("costs", "fix", "forbid") if (texts := getattr(request, name))},
        **({name: getattr(request, name) for name in WORKLOAD} if LATENCY in request.named_costs else {}),
        "weights": request.weights,
        "join": request.join,
        "top_k": request.top_k,
        "space_size": run.space.size,
        **more,
        "found": list(found),
    }
