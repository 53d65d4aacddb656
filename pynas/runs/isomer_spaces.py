"""Errors of networks drawn from a whole AutoFormer space, and of their best isomers by SNIP (PreNAS, figure 6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pynas import zero_cost
from pynas.costs import LayerTable
from pynas.errors import InputError
from pynas.files import write_json
from pynas.report.figures import save_figure
from pynas.report.isomers import distributions_figure
from pynas.runs.isomers import accuracies_content, check_autoformer, rated
from pynas.runs.run import Run
from pynas.runs.select import fresh_net, trained_net
from pynas.spaces import Architecture, Space
from pynas.zero_cost.ranking import units
from pynas.zero_cost.saliency import random_images

FILE = "spaces.json"
_KIND = "pynas.isomer_spaces"
# The spaces beside the whole one, by the normaliser of SNIP that chooses among isomers.
SPACES = {"B": "layer", "C": "snip"}
LABELS = {"A": "A: drawn from the whole space", "B": "B: best isomers by SNIP with layer normalisation",
          "C": "C: best isomers by SNIP"}  # fmt: skip


def compare_spaces(run: Run, networks: int, images: int = 64) -> dict[str, Any]:
    """Measure architectures drawn uniformly from the whole space (A), and the best isomer of each; write spaces.json.

    Best by SNIP with the layer normaliser (B) and without one (C), of fresh weights, by the selector's exact allocation. All
    are rated on the validation images with the supernet's weights; a measurement that was stopped goes on. spaces.png and
    .svg show the share of networks with an error up to each value.

    networks: number to draw. images: random ones of SNIP's backward pass.

    Raises:
        InputError: fewer than one network, no finished training, or another space than AutoFormer's.
    """
    if networks < 1 or images < 1:
        raise InputError(f"[isomers] expected at least one network and one image, got {networks} and {images}")
    check_autoformer(run)
    net, digest = trained_net(run)
    rng = np.random.default_rng(run.settings.seed)
    chosen = {"A": [run.space.sample(rng) for _ in range(networks)]}
    fresh = fresh_net(run.space, run.data.num_classes, run.settings.seed).to(run.device)
    scores = zero_cost.saliency(fresh, random_images(images, run.space.image_size, run.settings.seed))
    for name, normaliser in SPACES.items():
        chosen[name] = best_isomers(run.space, scores.normalised(normaliser), chosen["A"])
    wanted = [architecture for each in chosen.values() for architecture in each]
    accuracies = rated(run, net, digest, wanted, run.folder / FILE, _KIND)
    errors = {name: np.array([100 * (1 - accuracies[one]) for one in each]) for name, each in chosen.items()}
    content = accuracies_content(run, digest, accuracies, _KIND) | {
        "images": images, "allocation": "exact", "networks": networks,
        "spaces": {name: _described(run.space, chosen[name], errors[name], errors["A"]) for name in chosen}}  # fmt: skip
    title = f"{run.settings.method} on {run.space.name}, {run.settings.data}: {networks:,} networks of each space"
    labelled = {LABELS[name]: values for name, values in errors.items()}
    pictures = save_figure(distributions_figure(labelled, title), run.folder / "spaces")
    content["pictures"] = [path.name for path in pictures]
    write_json(run.folder / FILE, content)
    return content


def best_isomers(space: Space, scores: LayerTable, architectures: Iterable[Architecture]) -> list[Architecture]:
    """Return each architecture's isomer of the highest score: of equal dimension, depth, total heads and total MLP features.

    Found exactly, as the selector does by default (`pynas.zero_cost.exact`).
    """
    cells = space.blocks[0]
    best = [
        {tuple(total): path for total, path in zip(groups.totals.tolist(), groups.paths.tolist())}
        for groups in (zero_cost.exact(values, units(cell)) for values, cell in zip(scores.layers, cells))
    ]
    found = []
    for (choice,) in architectures:
        total = units(cells[choice.cell])[list(choice.path)].sum(0)
        found.append(Architecture.of([(choice.cell, best[choice.cell][tuple(total.tolist())])]))
    return found


def _described(space: Space, chosen: list[Architecture], errors: np.ndarray, of_a: np.ndarray) -> dict[str, Any]:
    """Return a space's part of spaces.json; shares of networks with a lower and a higher error than their origins in A."""
    return {"architectures": [space.format(one) for one in chosen], "mean_error": float(errors.mean()),
            "better_than_a": float((errors < of_a).mean()), "worse_than_a": float((errors > of_a).mean())}  # fmt: skip
