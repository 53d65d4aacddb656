"""BossNAS: blocks trained and rated in turn, without labels; the whole space ranked; a classifier for the one found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from pynas import export
from pynas.checked import AtLeastOne, fields
from pynas.errors import InputError
from pynas.methods import BlockStep, Bootstrap, BossNAS, Heads, Optimization, PathRating, fit_blocks
from pynas.rating import Progress, Scores
from pynas.runs.correlate import rank
from pynas.runs.defaults import Defaults
from pynas.runs.export import found_architecture, recalibrate, write_subnet
from pynas.runs.options import Options, loader_options
from pynas.runs.rate import own_scores
from pynas.runs.run import Request, Run
from pynas.runs.search import find_exactly
from pynas.spaces import Architecture
from pynas.teachers import Teacher
from pynas.tensor_files import digest
from pynas.train import Keep, fit_head
from pynas.train.team import is_first_process

# rating: how paths are scored (`PathRating.kind`). rate_every: rate each block at the end of every so many epochs too, for
# the plot of convergence. head_epochs: of the classifier on top of the network found, the only part that sees labels.
_RATING = fields(PathRating)
_RATED_BY = ("centre_of", "exchange_views", "population", "generations", "probe_epochs", "probe_rate")
_STAGES = {
    "rating": _RATING["kind"],
    **{name: _RATING[name] for name in _RATED_BY},
    "calibration_batches": (AtLeastOne, 1),
    **loader_options("strong"),
    "rate_every": (Annotated[int, Ge(0)], 0),
    "head_epochs": (AtLeastOne, 3),
}
# Section 5 and appendix A.2; 4,096 images a step are the mean of 64 batches of 64, the released code's batch on each GPU.
# Appendix, data sets: "50 K images from the original train set to form a NAS-val set"; CIFAR-10 is "divided into 25 K train set,
# 25 K val set". CIFAR-100's validation images are half of its test images there, which stay test images here.
_PAPER = {
    "hidden": 4096,
    "dim": 256,
    "rate": 4.8,
    "warmup_epochs": 1.0,
    "epochs": 20,
    "batch_size": 64,
    "accumulate": 64,
    "val_images": 50_000,
}
# Both views, the average's centre and a normalised mean of the targets; six epochs a block.
_CODE = {"both_views": True, "renormalize": True, "centre_of": "average", "exchange_views": True, "epochs": 6}
_NATS = {"batch_size": 256, "accumulate": 16, "val_fraction": 0.5, "val_images": None}
_RECIPES: dict[str, dict[str, Any]] = {
    # Smaller heads and a higher rate: the small default space would otherwise spend its time in the heads, and hardly learn in
    # the hundreds of steps that it gets.
    "small": {"hidden": 512, "dim": 128, "rate": 19.2, "epochs": 6, "batch_size": 64},
    "paper": _PAPER,
    "paper-nats-size": {**_PAPER, **_NATS, "epochs": 30},
    "code": {**_PAPER, **_CODE},
    "code-nats-size": {
        **_PAPER,
        **_CODE,
        **_NATS,
        "rate": 0.48,
        "warmup_epochs": 2.0,
        "epochs": 50,
        "augmentation": "standard",
    },
}


class BossNASRecipe:
    """`pynas run --method bossnas`."""

    summary = (BossNAS.__doc__ or "").partition("\n")[0]
    defaults = Defaults(loss="centre", losses=(), norms=("recalibrate",))

    def options(self) -> Options:
        """Return the fields of Bootstrap, Heads and Optimization, and those of the rating and the other stages."""
        return Options({**fields(Bootstrap), **fields(Heads), **fields(Optimization)}, _STAGES, _RECIPES)

    def teacher(self, run: Run) -> Teacher | None:
        """Return the run's teacher with target="distillation"; else None, since the supernet's own average teaches."""
        return run.teacher() if run.options["target"] == "distillation" else None

    def build(self, run: Run) -> BossNAS:
        """Return the method on the run's supernet."""
        parts = {"bootstrap": Bootstrap, "heads": Heads, "optimization": Optimization}
        options = {name: _filled(part, run.options) for name, part in parts.items()}
        return BossNAS(run.net, self.teacher(run), image_shape=run.data.image_shape, num_classes=run.data.num_classes,
                       batch_size=run.settings.batch_size * run.settings.accumulate, **options)  # fmt: skip

    def train(self, run: Run) -> None:
        """Train, rate and fix block after block; goes on where it was stopped.

        Raises:
            InputError: weights to keep on the way.
        """
        if run.keep != Keep():
            raise InputError(f"[run] expected no --keep for bossnas, which trains block by block, got {run.keep}; "
                             "rate on the way by --option rate_every=N")  # fmt: skip
        self._trained(run)
        if is_first_process():
            run.count_costs()

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores:
        """Read the scores, which the training made: a block is fed by the best path of the one before it.

        Raises:
            InputError: blocks that are not trained.
        """
        self._check_finished(run)
        return own_scores(run)

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search exactly; write every architecture's score to ranking.csv, and correlations where accuracies are known."""
        self._check_finished(run)
        return find_exactly(run, request) | rank(run)

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Return the scores of some networks, which the training made."""
        return self.rate(run, loss, norm).total(networks)

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take the network out of the averaged supernet, train a classifier on top of it, measure it, write it.

        All other weights stay as they were learned without labels.
        """
        self._check_finished(run)
        architecture = architecture or found_architecture(run)
        method, _ = self._trained(run)
        net = method.ema
        net.head = method.net.head
        model = export.subnet(net, architecture, run.data.image_shape)
        recalibrate(run, model)
        fit_head(model, run.loader("train", "standard"), run.options["head_epochs"], seed=run.settings.seed)
        return write_subnet(run, model.requires_grad_(True), architecture, digest(method.trained_state()))

    def _trained(self, run: Run) -> tuple[BossNAS, Scores]:
        """Return the method with all its blocks trained, and the scores; what the folder holds is read."""
        method, settings, options = run.method(), run.settings, run.options
        every = options["rate_every"]
        rating = PathRating(kind=options["rating"], **{name: options[name] for name in _RATED_BY})
        scores = fit_blocks(
            method,
            run.training_loader(method.views),
            run.loader("val", options["augmentation"], 2),
            settings.epochs,
            run.folder,
            seed=settings.seed,
            accumulate=settings.accumulate,
            rate_epochs={*settings.keep_epochs, *(range(every, settings.epochs, every) if every else ())}
            - {settings.epochs},
            calibration_batches=options["calibration_batches"],
            on_step=_reports(run),
            on_rating=_rating_reports(run),
            spread=run.spread,
            rating=rating,
        )
        return method.eval(), scores

    def _check_finished(self, run: Run) -> None:
        for b in range(len(run.space)):
            if not (run.folder / "checkpoints" / f"block_{b + 1}.safetensors").exists():
                raise InputError(f"[run] expected a finished training, got none of block {b + 1}; "
                                 f"run `pynas train --run {run.home}` to go on")  # fmt: skip


def _filled(part: Any, options: dict[str, Any]) -> Any:
    """Build one of BossNAS's dataclasses from the options of the same names."""
    return part(**{field.name: options[field.name] for field in fields_of(part)})


def _reports(run: Run) -> Callable[[BlockStep], None]:
    """Return the report of the blocks' trainings, a bar each."""
    reports = [run.progress.steps(f"train block {b + 1}") for b in range(len(run.space))]

    def report(step: BlockStep) -> None:
        update = reports[step.block - 1]
        if update is not None:
            update(step.step)

    return report


def _rating_reports(run: Run) -> Callable[[int, Progress], None]:
    """Return the report of the blocks' ratings, a bar each."""
    reports = [run.progress.count(f"rate block {b + 1}") for b in range(len(run.space))]
    return lambda block, progress: reports[block - 1](progress.done, progress.total or progress.done)
