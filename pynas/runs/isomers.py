"""Isomers of a trained AutoFormer supernet: how far apart equally large subnets are, and which of them SNIP picks (PreNAS)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pynas import zero_cost
from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.evaluation import ErrorRate
from pynas.files import header, read_json, write_json
from pynas.report.figures import save_figure
from pynas.report.isomers import isomers_figure
from pynas.runs.run import Run
from pynas.runs.select import fresh_net, trained_net
from pynas.spaces import Architecture, Cell, Space
from pynas.tabular import mean_best_rank
from pynas.zero_cost.saliency import NORMALISERS, random_images

FILE = "isomers.json"
_KIND = "pynas.isomers"
# Subnets that are rated between two writes of the accuracies so far.
_BETWEEN_WRITES = 64
# What varies in each case of appendix A, and what its layers have the most of instead.
CASES = {"mlp": ("hidden", "heads"), "heads": ("heads", "hidden")}


@checked("isomers")
@dataclass(frozen=True, kw_only=True)
class Isomers:
    """A request of `measure_isomers`.

    vary: "mlp" (case 1 of appendix A: all layers have the most heads), "heads" (case 2: all have the highest MLP ratio) or
    "both". dim, depth: of all subnets, None for the smallest of the space (the paper: 192 and 12). sample: subnets of each
    case, drawn without repetition where there are more. images: random ones of SNIP's backward pass.
    """

    vary: Literal["mlp", "heads", "both"] = "both"
    dim: AtLeastOne | None = None
    depth: AtLeastOne | None = None
    sample: AtLeastOne = 4096
    images: AtLeastOne = 64


@dataclass(frozen=True)
class Case:
    """Subnets of a case: paths `[N, L]` of a cell, and the total of each, `[N]`: MLP features or heads over all layers.

    ends: candidates with the least and with the most of what varies.
    """

    cell: int
    paths: np.ndarray
    totals: np.ndarray
    ends: tuple[int, int]

    @property
    def architectures(self) -> list[Architecture]:
        """The subnets."""
        return [Architecture.of([(self.cell, path)]) for path in self.paths.tolist()]


def measure_isomers(run: Run, request: Isomers) -> dict[str, Any]:
    """Measure groups of isomers as PreNAS's tables 7 and 8 do; return and write the content of isomers.json.

    Each subnet of a case is rated on the validation images with the supernet's weights. Subnets of equal totals are a group:
    its number of subnets and its accuracy span in points (table 7), and over all groups the mean best rank of each way to
    score isomers (`pynas.tabular.mean_best_rank`, table 8), with fresh weights, as the selector scores, and with trained ones.
    Accuracies stay in the file: a measurement that was stopped goes on. isomers.png and .svg show accuracy against SNIP with
    and without normalising, and the growth of SNIP by layer (figure 3).

    Raises:
        InputError: no finished training, another space than AutoFormer's, a dimension or depth that it lacks, or a case
            without two isomers.
    """
    check_autoformer(run)
    names = CASES if request.vary == "both" else (request.vary,)
    cases = {name: case_of(run.space, name, request, run.settings.seed) for name in names}
    net, digest = trained_net(run)
    wanted = [architecture for case in cases.values() for architecture in case.architectures]
    accuracies = rated(run, net, digest, wanted, run.folder / FILE, _KIND)
    scores = {"fresh": fresh_net(run.space, run.data.num_classes, run.settings.seed), "trained": net}
    images = random_images(request.images, run.space.image_size, run.settings.seed)
    saliency = {weights: zero_cost.saliency(each.to(run.device), images) for weights, each in scores.items()}
    tables = {name: _measured(run.space, case, accuracies, saliency) for name, case in cases.items()}
    content = accuracies_content(run, digest, accuracies, _KIND) | {"images": request.images, "cases": tables}
    title = f"{run.settings.method} on {run.space.name}, {run.settings.data}: SNIP of fresh weights"
    pictures = save_figure(isomers_figure(tables, content["accuracies"], title), run.folder / "isomers")
    content["pictures"] = [path.name for path in pictures]
    write_json(run.folder / FILE, content)
    return content


def case_of(space: Space, vary: str, request: Isomers, seed: int) -> Case:
    """Return the subnets of a case: every path of its cell's varying candidates, or so many of them drawn.

    Raises:
        InputError: a dimension or depth that the space lacks, or no two isomers.
    """
    number, cell = _cell(space, request)
    varying, fixed = CASES[vary]
    most = max(getattr(spec, fixed) for spec in cell.layers[0])
    candidates = [c for c, spec in enumerate(cell.layers[0]) if getattr(spec, fixed) == most]
    shape = (len(candidates),) * len(cell.layers)
    count = len(candidates) ** len(cell.layers)
    chosen = (
        range(count) if count <= request.sample else sorted(random.Random(seed).sample(range(count), request.sample))
    )
    paths = np.array(candidates)[np.stack(np.unravel_index(np.array(chosen), shape), 1)]
    units = np.array([getattr(spec, varying) for spec in cell.layers[0]])
    totals = units[paths].sum(1)
    if len(np.unique(totals)) == len(totals):
        raise InputError(f"[isomers] expected subnets of equal size that differ in {vary}, got none among {len(paths)} of "
                         f"{space.name}; take more with sample, or another depth")  # fmt: skip
    return Case(number, paths, totals, (candidates[0], candidates[-1]))


def _cell(space: Space, request: Isomers) -> tuple[int, Cell]:
    """Return the cell of the request's dimension and depth, with its number."""
    cells = {(cell.layers[0][0].dim, len(cell.layers)): (c, cell) for c, cell in enumerate(space.blocks[0])}
    for place, (name, given) in enumerate((("dim", request.dim), ("depth", request.depth))):
        known = sorted({key[place] for key in cells})
        given = known[0] if given is None else given
        if given not in known:
            raise InputError(
                f"[isomers] expected a {name} of {', '.join(map(str, known))} in {space.name}, got {given}"
            )
        cells = {key: value for key, value in cells.items() if key[place] == given}
    return next(iter(cells.values()))


def check_autoformer(run: Run) -> None:
    """Refuse a run in another space than AutoFormer's.

    Raises:
        InputError: such a run.
    """
    if run.space.kind != "autoformer":
        raise InputError(f"[isomers] expected a run in a space of AutoFormer, got one in {run.space.name}")


def accuracies_content(run: Run, digest: str, accuracies: Mapping[Architecture, float], kind: str) -> dict[str, Any]:
    """Return a file's header of a kind, of these weights and images, with the accuracies by string form."""
    named = {run.space.format(architecture): accuracy for architecture, accuracy in accuracies.items()}
    return header(kind, checkpoint=digest, data=run.data.fingerprint) | {"accuracies": named}


def rated(
    run: Run, net: Any, digest: str, architectures: Iterable[Architecture], path: Path, kind: str
) -> dict[Architecture, float]:
    """Return accuracies on the validation images, and those of others that the file holds for these weights and images.

    They are written into the file as they come, so that a rating that was stopped goes on.
    """
    known = {}
    if path.exists():
        before = read_json(path, kind)
        if before["metadata"] == accuracies_content(run, digest, {}, kind)["metadata"]:
            known = {run.space.parse(text): accuracy for text, accuracy in before["accuracies"].items()}
    wanted = list(dict.fromkeys(architectures))
    left = [architecture for architecture in wanted if architecture not in known]
    report, rating = run.progress.count("rate isomers"), ErrorRate(net, run.loader("val"), norm="running")
    for start in range(0, len(left), _BETWEEN_WRITES):
        part = left[start : start + _BETWEEN_WRITES]
        known |= zip(part, (1 - rating.many(part)).tolist())
        write_json(path, accuracies_content(run, digest, known, kind))
        report(len(wanted) - len(left) + start + len(part), len(wanted))
    return known


def _measured(
    space: Space, case: Case, accuracies: Mapping[Architecture, float], saliency: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a case's part of isomers.json: sizes, groups by rising total (table 7), mean best ranks, scores by subnet."""
    accuracy = np.array([accuracies[architecture] for architecture in case.architectures])
    ranks = {
        normaliser: {
            weights: mean_best_rank(
                scores.normalised(normaliser).paths(case.cell, case.paths), accuracy, case.totals, lower_is_better=False
            )
            for weights, scores in saliency.items()
        }
        for normaliser in NORMALISERS
    }
    layers = space.blocks[0][case.cell].layers
    return {"dim": layers[0][0].dim, "depth": len(layers), "subnets": len(case.paths),
            "groups": list(_groups(accuracy, case.totals)), "mean_best_rank": ranks,
            "scores": _scores(space, case, saliency["fresh"]), "growth": _growth(case, saliency["fresh"])}  # fmt: skip


def _scores(space: Space, case: Case, saliency: Any) -> dict[str, Any]:
    """Return the total and the scores of each subnet, without and with the layer normaliser, by its string form."""
    snip, layer = (saliency.normalised(name).paths(case.cell, case.paths).tolist() for name in ("snip", "layer"))
    return {
        space.format(architecture): {"total": total, "snip": plain, "layer": normalised}
        for architecture, total, plain, normalised in zip(case.architectures, case.totals.tolist(), snip, layer)
    }


def _growth(case: Case, saliency: Any) -> list[float]:
    """Return what SNIP gains in each layer from the least to the most of what varies."""
    values = saliency.snip.layers[case.cell][:, list(case.ends)]
    return (values[:, 1] - values[:, 0]).tolist()


def _groups(accuracy: np.ndarray, totals: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the groups of two or more subnets: the total, the number of subnets, the accuracy span in points."""
    for total in np.unique(totals).tolist():
        inside = accuracy[totals == total]
        if len(inside) > 1:
            yield {"total": total, "subnets": len(inside), "span": float(100 * (inside.max() - inside.min()))}
