"""`pynas retrain`: train a found network by one of the papers' recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    recipe: Annotated[
        str,
        typer.Option(help="deit (AdamW, cosine), efficientnet (RMSprop, steps; with -aa AutoAugment, -ra RandAugment), resnest "
                     "(SGD, AugMix; with -aa AutoAugment) or small (ten epochs)."),
    ] = "deit",
    architecture: options.Architecture = None,
    start: Annotated[
        str, typer.Option("--from", help="scratch, or inherited: the supernet's weights, as `pynas export` wrote them.")
    ] = "scratch",
    phi: Annotated[
        str | None, typer.Option(help="Train the network scaled, see `pynas scale`. [default: as it is]", show_default=False)
    ] = None,
    epochs: options.TrainingEpochs = None,
    batch_size: options.TrainingBatchSize = None,
    option: options.TrainingOptions = None,
    keep: options.Keep = None,
    distill: Annotated[float, typer.Option(help="Weight of the run's teacher in the loss, 0 to 1.")] = 0.0,
    kind: Annotated[
        str,
        typer.Option("--distill-kind", help="soft (KL), hard (the teacher's decision) or token (of a vision transformer: a second "
                     "classifier learns it)."),
    ] = "soft",
    temperature: Annotated[float, typer.Option(help="Of the soft distillation.")] = 1.0,
    amp: options.Amp = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. [default: the run's]", show_default=False)
    ] = None,
    test_size: options.TestSize = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the folder, for a second retraining by the same recipe. [default: RECIPE-START]",
                     show_default=False),
    ] = None,
    sync_batch_norm: options.SyncBatchNorm = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    log: options.Log = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Train a found network on all training images and measure it; goes on where it was stopped.

    Writes retraining/NAME/: checkpoints, metrics.jsonl, report.json (top-1, top-5) and subnet.safetensors. Under torchrun
    the processes share every batch.

    Example: `pynas retrain --run runs/digits --recipe efficientnet --epochs 30 --batch-size 128 --distill 0.5`
    """
    from pynas.cli.training import train_network
    from pynas.runs import retrain as retraining
    from pynas.runs.settings import method_options

    given: dict[str, Any] = {"recipe": recipe, "architecture": architecture, "start": start, "phi": phi, "epochs": epochs,
                             "batch_size": batch_size, "options": method_options(option) or {}, "distill": distill,
                             "distill_kind": kind, "temperature": temperature, "amp": amp, "image_size": image_size,
                             "test_size": test_size, "name": name}  # fmt: skip
    train_network(retraining.retrain, run, retraining.Request(**given), device, json, log, workers=workers,
                  keep=options.policy(keep), sync_batch_norm=sync_batch_norm)  # fmt: skip
