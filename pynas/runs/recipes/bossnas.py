"""BossNAS: blocks trained and rated in turn, without labels; the whole space ranked; a classifier for the one found."""

from __future__ import annotations

from typing import Any

import torch

from pynas import export, methods
from pynas.runs import search as finding
from pynas.runs import correlate as ranking
from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.recipe import Flow
from pynas.runs.stages import Run
from pynas.errors import InputError
from pynas.rating import ScoreTable
from pynas.spaces import Architecture
from pynas.tensor_files import digest
from pynas.methods import BlockStep, fit_blocks
from pynas.train import fit_head
from pynas.train.checkpoint import trained_state

# Options of the stages, beside those of the method. rate_every: rate each block at the end of every so many epochs too,
# for the plot of convergence. head_epochs: of the classifier on top of the network found, the only part that sees labels.
MORE = {"rating": None, "centre_of": "average", "population": None, "generations": 8, "calibration_batches": 1,
        "rate_every": 0, "head_epochs": 3}  # fmt: skip
# Smaller heads than the paper's 4096 and 256, and a higher rate than its 4.8: the small default space would otherwise
# spend its time in the heads, and hardly learn in the hundreds of steps that it gets.
DEFAULTS = {"hidden": 512, "dim": 128, "rate": 19.2}


def build(run: Run, show: Show) -> methods.BossNAS:
    """The method; only target="distillation" has a teacher."""
    options = run.method_options
    teacher = run.teacher(show.teacher()) if options["target"] == "distillation" else None
    net, data = run.net, run.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.settings.seed)  # of the heads
        return methods.BossNAS(
            net,
            teacher,
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            batch_size=run.settings.batch_size * run.settings.accumulate,
            **options,
        )


def train(run: Run, show: Show) -> None:
    """Train, rate and fix block after block; goes on where it was stopped."""
    trained(run, show)
    if stages.is_first_process():
        stages.costs(run)


def trained(run: Run, show: Show) -> tuple[methods.BossNAS, list[list[ScoreTable]]]:
    """The method with all its blocks trained, and the score tables; what the folder holds is read."""
    method, settings = run.method(show), run.settings
    bars = [show.steps(f"train block {b + 1}") for b in range(len(run.space))]

    def on_step(step: BlockStep) -> None:
        bar = bars[step.block - 1]
        if bar is not None:
            bar(step.step)

    every = run.options["rate_every"]
    rating = methods.PathRating(run.options["rating"], centre_of=run.options["centre_of"],
                                population=run.options["population"], generations=run.options["generations"])  # fmt: skip
    tables = fit_blocks(
        method,
        run.loader("train", "strong", method.views),
        run.loader("val", "strong", 2),
        settings.epochs,
        run.folder,
        seed=settings.seed,
        accumulate=settings.accumulate,
        rate_epochs=range(every, settings.epochs, every) if every else (),
        calibration_batches=run.options["calibration_batches"],
        on_step=on_step,
        spread=run.spread,
        rating=rating,
    )
    return method.eval(), tables


def rate(run: Run, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """The scores, which belong to the training: a block is fed by the best path of the one before it.

    Raises:
        InputError: blocks that are not trained, or another loss or norm.
    """
    if (loss, norm) != (FLOW.loss, FLOW.norm):
        raise InputError(f"[bossnas] expected loss={FLOW.loss} and norm={FLOW.norm}, since the training chose its inputs "
                         f"by these, got {loss} and {norm}; give --option rating=... to `pynas train`")  # fmt: skip
    _check_finished(run)
    return finding.rated(run)


def _check_finished(run: Run) -> None:
    for b in range(len(run.space)):
        if not (run.folder / "checkpoints" / f"block_{b + 1}.safetensors").exists():
            raise InputError(f"[run] expected a finished training, got none of block {b + 1}; "
                             f"run `pynas train --run {run.folder}` to go on")  # fmt: skip


def find(run: Run, wishes: finding.Wishes) -> dict[str, Any]:
    """Exact search; every architecture's score in ranking.csv; correlations where accuracies are published."""
    _check_finished(run)
    return finding.find(run, wishes) | ranking.rank(run)


def export_found(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """Take the network out of the averaged supernet, train a classifier on top of it, measure it, write it.

    All other weights stay as they were learned without labels.
    """
    _check_finished(run)
    architecture = architecture or stages.found_architecture(run)
    method, _ = trained(run, Show(None))
    net = method.ema
    net.head = method.net.head
    model = export.subnet(net, architecture, run.data.image_shape)
    stages.recalibrate(run, model)
    fit_head(model, run.loader("train", "standard"), run.options["head_epochs"], seed=run.settings.seed)
    return stages.write_subnet(run, model.requires_grad_(True), architecture, digest(trained_state(method)))


FLOW = Flow(
    methods.BossNAS, build, train, rate, find, export_found, own=("taps", "image_shape", "num_classes", "batch_size"),
    augmentation="strong", loss="centre", norm="recalibrate", epochs=6, more=MORE, defaults=DEFAULTS,
)  # fmt: skip
