"""The calibration stage: a few networks trained from scratch, and scores fitted to their accuracies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from scipy.stats import kendalltau

from pynas import export, search
from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.export.recipes import recipe_of
from pynas.files import header, read_json, write_json
from pynas.rating import Scores
from pynas.runs.correlate import bench_of
from pynas.runs.joined import CALIBRATION, FOLDER
from pynas.runs.rate import load_scores
from pynas.runs.request import Request
from pynas.runs.run import Run
from pynas.runs.search import find_limits, log_widths
from pynas.runs.truth import read_truth
from pynas.search.calibration import LEAST
from pynas.spaces import Architecture
from pynas.tabular.bootstrap import bootstrap

TRAININGS = "pynas.calibration_trainings"
PUBLISHED = "published"
_RESAMPLES = 1000


@checked("calibrate")
@dataclass(frozen=True, kw_only=True)
class Calibrating:
    """A calibration's request.

    train: how many networks; choose: at random, or the D-optimal ones of 500 random ones. limits: that they keep. model: of
    the order in which a search lists what it found; the search itself is always by the linear one. truth: a CSV file of trained
    networks' accuracies, of which as many are taken, or "published": of the space's benchmark; None to train. recipe, epochs,
    batch_size: of the training; None for the recipe's. seed: of the choice, the folds and the trainings.
    """

    train: AtLeastOne = 20
    choose: Literal["d-optimal", "random"] = "d-optimal"
    model: Literal["ridge", "gp"] = "ridge"
    limits: Mapping[str, Any] = field(default_factory=dict)
    truth: Path | None = None
    recipe: str = "efficientnet-ra"
    epochs: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        recipe_of(self.recipe)
        if self.train < LEAST:
            raise InputError(f"[calibrate] expected at least {LEAST} networks to fit to, got {self.train}")


def calibrate(run: Run, request: Calibrating) -> dict[str, Any]:
    """Choose and train networks, fit scores to their accuracies, and write and return calibration.json.

    A training that was stopped goes on, and networks that an earlier calibration trained alike are not trained again. The
    fitted scores are in the folder `calibration/scores`, where `pynas search --calibrated` reads them.


    Raises:
        InputError: no scores, too few networks, no published accuracies, or another training than the folder's.
    """
    scores, costs = load_scores(run), run.costs | log_widths(run)
    truth = _known(run, request, scores)
    networks = _choose(run, request, scores, costs, None if truth is None else list(truth))
    if truth is not None:
        accuracies = [truth[network] for network in networks]
    elif request.truth is not None:
        accuracies = _published(run, networks)
    else:
        accuracies = _Trainings(run, request).accuracies(networks)
    fitted = search.calibrate(scores, costs, networks, accuracies, seed=request.seed)
    fitted.scores.save(run.folder / FOLDER / "scores")
    source = "trained in the run" if request.truth is None else str(request.truth)
    content = header(CALIBRATION, space=run.space.name, data=run.data.fingerprint) | {
        "model": request.model,
        "choose": request.choose,
        "source": source,
        "networks": len(networks),
        **_agreement(fitted, scores, networks, accuracies, request.seed),
        "weights": fitted.weights,
        "accuracies": {run.space.format(network): float(a) for network, a in zip(networks, accuracies)},
    }
    write_json(run.folder / FOLDER / "calibration.json", content)
    return content


def _agreement(
    fitted: search.Calibration,
    scores: Scores,
    networks: Sequence[Architecture],
    accuracies: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """Return Kendall's tau with the accuracies, and its 95 % interval by a bootstrap over the networks.

    tau is that of predictions by fits to other networks; beside it stand the rating's scores.
    """
    truth = np.asarray(accuracies, np.float64)
    predictors = {"": fitted.left_out, "uncalibrated_": -scores.total(networks)}
    drawn = bootstrap(list(predictors.values()), truth, _RESAMPLES, seed)[:, :, 0]
    content: dict[str, Any] = {}
    for (name, values), taus in zip(predictors.items(), drawn):
        content[f"{name}tau"] = float(kendalltau(values, truth).statistic) if len(np.unique(values)) > 1 else 0.0
        known = taus[~np.isnan(taus)]
        content[f"{name}tau_interval"] = np.percentile(known, (2.5, 97.5)).tolist() if len(known) else [0.0, 0.0]
    return content


def _known(run: Run, request: Calibrating, scores: Scores) -> dict[Architecture, float] | None:
    """Return the accuracies of the user's file, of networks that are rated; None without a file."""
    if request.truth is None or str(request.truth) == PUBLISHED:
        return None
    truth = read_truth(request.truth, run.space)
    for network in truth:
        if np.isnan(scores.of(network)):
            raise InputError(f"[calibrate] expected networks of rated paths, got {run.space.format(network)} in {request.truth}, "
                             "which has a path without score; leave its row out")  # fmt: skip
    return truth


def _choose(
    run: Run, request: Calibrating, scores: Scores, costs: Any, among: Sequence[Architecture] | None
) -> list[Architecture]:
    if among is None and request.truth is not None:
        bench = bench_of(run.space)
        if bench is None:
            raise InputError(f"[calibrate] expected a space with published accuracies, got {run.space}; give a CSV file, or "
                             "none to train the networks")  # fmt: skip
        if len(bench) < run.space.size:  # only some have accuracies
            among = [run.space.parse(name) for name in bench.architectures]
    limits = find_limits(run, Request(request.limits), costs)
    return search.choose_networks(
        scores,
        costs,
        request.train,
        choose=request.choose,
        limits=limits.upper,
        at_least=limits.lower,
        seed=request.seed,
        among=among,
    )


def _published(run: Run, networks: Sequence[Architecture]) -> list[float]:
    """Return the published accuracies of these networks; no others are looked at."""
    bench = bench_of(run.space)
    assert bench is not None
    return [float(bench.accuracy[bench.index(network, run.space)]) for network in networks]


class _Trainings:
    """Networks trained on the run's training images, and measured on those that paths are rated on.

    The test images stay unseen, so that they can still measure the network that is found in the end. Each accuracy is written
    down as it comes.
    """

    def __init__(self, run: Run, request: Calibrating) -> None:
        recipe = recipe_of(request.recipe)
        self.run, self.recipe = run, recipe
        self.settings: dict[str, Any] = {
            "recipe": recipe.name,
            "epochs": request.epochs or recipe.epochs,
            "batch_size": request.batch_size or recipe.batch_size,
            "seed": request.seed,
        }
        self.file: Path = run.folder / FOLDER / "trainings.json"
        if len(run.data.val) == 0:
            raise InputError("[calibrate] expected images to measure the networks on, got a run without; use one whose "
                             "--val-fraction is above 0, or give --truth")  # fmt: skip
        before = read_json(self.file, TRAININGS) if self.file.exists() else {}
        for name, value in self.settings.items():
            made = before["metadata"][name] if before else value
            if made != value:
                raise InputError(f"[calibrate] expected {name} = {made!r}, as the networks of {self.file.parent} were trained "
                                 f"with, got {value!r}; move that folder away to train anew")  # fmt: skip
        self.done: dict[str, float] = before.get("accuracies", {})

    def accuracies(self, networks: Sequence[Architecture]) -> list[float]:
        """Return top-1 accuracies in percent; networks without one are trained."""
        report = self.run.progress.count("train networks")
        for number, network in enumerate(networks):
            report(number, len(networks))
            name = self.run.space.format(network)
            if name not in self.done:
                self.done[name] = 100 * self._train(network)
                write_json(self.file, header(TRAININGS, **self.settings) | {"accuracies": self.done})
        report(len(networks), len(networks))
        return [self.done[self.run.space.format(network)] for network in networks]

    def _train(self, network: Architecture) -> float:
        run, settings = self.run, self.settings
        data = run.data
        name = hashlib.blake2b(str(network).encode(), digest_size=6).hexdigest()
        model = run.seeded(
            lambda: export.standalone(run.space, network, data.num_classes, data.image_shape), settings["seed"]
        )
        model, _ = export.retrain(
            model, data, self.recipe, epochs=settings["epochs"], batch_size=settings["batch_size"],
            run=run.folder / FOLDER / "networks" / name, seed=settings["seed"], device=run.device,
            on_step=run.progress.steps("train", f"train network {name}"),
        )  # fmt: skip
        return export.evaluate(model, data, "val", run.device)["top1"]
