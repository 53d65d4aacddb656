"""PreNAS: select without training, train the preferred architectures, measure each, export the best within limits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

from pynas import methods
from pynas.runs import search as finding
from pynas.runs import select as selecting
from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.recipe import LOADER, Flow
from pynas.runs.quantities import milliseconds, quantity
from pynas.runs.stages import Run
from pynas.errors import InfeasibleError, InputError
from pynas.files import header, read_json, write_json
from pynas.methods.whole.prenas import LOADERS, RECIPES
from pynas.rating import ScoreTable
from pynas.zero_cost import PreferredSpace, kind_of, load_preferred

LOSS, NORM = "error", "recalibrate"
_ACCURACIES = "pynas.accuracies"
# Options of the selection, as of `pynas select`; None: what suits the space.
SELECTION = {"interval": "50k", "top": 1, "cost": "params", "normaliser": None, "allocation": None, "images": 64}
# Training batches to re-estimate batch norm on, where there is one.
LATER = {"calibration_batches": 4}


def preferred(run: Run, show: Show) -> PreferredSpace:
    """The preferred space, selected with the run's fresh weights once and kept as preferred.json."""
    path = run.folder / selecting.FILE
    if path.exists():
        return load_preferred(path, run.space)
    chosen = {name: run.options[name] for name in SELECTION}
    read = milliseconds if chosen["cost"] == "latency" else quantity
    wish = selecting.Selection(**{**chosen, "interval": read(str(chosen["interval"]))}, seed=run.settings.seed)
    net = selecting.fresh_net(run.space, run.data.num_classes, run.settings.seed)
    found, seconds = selecting.preferred_space(net, wish, run.device, show.images("select"))
    selecting.save(run.folder, found, seconds)
    return found


def build(run: Run, show: Show) -> methods.PreNAS:
    """The method on the preferred architectures."""
    net: Any = run.net
    kind_of(net)
    members = [one.architecture for one in preferred(run, show).members]
    return run.flow.method(net, members, **run.method_options)


def rate(run: Run, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """The accuracy of every preferred architecture on the validation images, kept as scores/preferred.json.

    Raises:
        InputError: another loss or norm.
    """
    if (loss, norm) != (LOSS, NORM):
        raise InputError(f"[rate] expected loss {LOSS} and norm {NORM}, as prenas measures whole networks, with batch "
                         f"norm of their own, got {loss} and {norm}")  # fmt: skip
    method, digest = run.trained_method()
    if not stages.is_first_process():
        return []
    metadata = {"checkpoint": digest, "data": run.data.fingerprint}
    metadata |= {name: run.options[name] for name in LATER}
    path = run.folder / "scores" / "preferred.json"
    if not path.exists() or read_json(path, _ACCURACIES)["metadata"] != metadata:
        calibration = itertools.islice(run.loader("train"), run.options["calibration_batches"])
        accuracies = method.accuracy(run.loader("val"), method.preferred, calibration)
        named = {run.space.format(a): float(accuracy) for a, accuracy in zip(method.preferred, accuracies)}
        write_json(path, header(_ACCURACIES, **metadata) | {"accuracies": named})
    stages.costs(run)
    return []


def find(run: Run, wishes: finding.Wishes) -> dict[str, Any]:
    """The most accurate preferred architectures within the limits; writes and returns search.json.

    Raises:
        InputError: wishes that need a rating of the whole space.
        InfeasibleError: no preferred architecture keeps the limits.
    """
    if wishes.front is not None or wishes.weights is not None or wishes.table is not None:
        raise InputError("[search] expected limits alone, as prenas rates its preferred architectures only and knows no "
                         "fronts, weights or tables")  # fmt: skip
    costs, space = costs_with_latency(run, wishes), preferred(run, Show(None))
    limits, at_least = dict(wishes.limits), dict(wishes.at_least)
    if not limits and not at_least:
        limits = {"madds": finding.half_way(run.space, costs, "madds")}
    accuracies = read_json(run.folder / "scores" / "preferred.json", _ACCURACIES)["accuracies"]
    entries = []
    for one in space.members:
        spent, name = costs.of(one.architecture), run.space.format(one.architecture)
        if all(spent[cost] <= limit for cost, limit in limits.items()) and all(
            spent[cost] >= limit for cost, limit in at_least.items()
        ):
            entries.append({"architecture": name, "score": 1 - accuracies[name], **spent})
    if not entries:
        every = [costs.of(one.architecture) for one in space.members]
        reached = {cost: [min(e[cost] for e in every), max(e[cost] for e in every)] for cost in {*limits, *at_least}}
        raise InfeasibleError(f"[search] expected limits that a preferred architecture keeps, got at most {limits} and at "
                              f"least {at_least}; theirs go from and to {reached}")  # fmt: skip
    entries.sort(key=lambda entry: (entry["score"], entry["params"]))
    content = finding.search_content(
        run, wishes, limits, entries[: wishes.top_k], exhausted=len(entries) < wishes.top_k,
        search="the preferred selection", rated=len(space),
    )  # fmt: skip
    write_json(run.folder / "search.json", content)
    return content


def costs_with_latency(run: Run, wishes: finding.Wishes) -> Any:
    """The counted costs, and latency on the run's device where it is named, measured once and kept."""
    costs = stages.costs(run)
    for name in sorted({*wishes.limits, *wishes.at_least} - {"latency"}):
        costs[name]  # an unknown cost is named before anything is measured
    if "latency" not in {*wishes.limits, *wishes.at_least}:
        return costs
    path = run.folder / f"latency-{run.device.type}.npz"
    if not path.exists():
        selecting.latency_of(run.net, run.device).save(path)
    return costs | kind_of(run.net).load(path)


FLOW = Flow(
    methods.PreNAS, build, stages.train, rate, find, stages.export_found, space="autoformer-mini", loss=LOSS, norm=NORM,
    epochs=40, more={**SELECTION, **LATER, **LOADER}, defaults={"warmup_epochs": 2},
    recipes={name: {**recipe, **LOADERS[name]} for name, recipe in RECIPES.items()},
)  # fmt: skip
# What spos and fairnas are in spaces that share weights by slicing: PreNAS's training over the whole space, the selection as
# before (figure 4's redundant training with the pre-selector).
BASELINES = {
    sampling: replace(FLOW, method=partial(methods.PreNAS, sampling=sampling), own=("sampling",))
    for sampling in ("spos", "fairnas")
}
