"""`pynas finetune`: transfer a run's network to another data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run with a retrained or an exported network.")],
    data: Annotated[str, typer.Option(help="Images, see `pynas train --help`.", show_default=False)],
    recipe: Annotated[
        str | None,
        typer.Option(help="transfer-cnn (DNA, table 3) or transfer-vit (PreNAS, table 5). [default: by the network]",
                     show_default=False),
    ] = None,
    subnet: Annotated[
        Path | None,
        typer.Option(help="File of the network. [default: the run's only retrained one, else the exported one]",
                     show_default=False),
    ] = None,
    epochs: options.TrainingEpochs = None,
    batch_size: options.TrainingBatchSize = None,
    option: options.TrainingOptions = None,
    amp: options.Amp = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. [default: the network's]", show_default=False)
    ] = None,
    test_size: options.TestSize = None,
    sync_batch_norm: options.SyncBatchNorm = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    log: options.Log = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Train a network on another data set, from the weights that it has, with a new classifier; goes on where it was stopped.

    Writes finetuning/DATA-RECIPE/: checkpoints, metrics.jsonl, report.json (top-1, top-5) and subnet.safetensors.

    Example: `pynas finetune runs/digits --data cifar10.npz --epochs 10 --batch-size 128`
    """
    from pynas.cli.training import train_network
    from pynas.runs import finetune as tuning
    from pynas.runs.settings import method_options

    given: dict[str, Any] = {"data": data, "recipe": recipe, "subnet": None if subnet is None else str(subnet), "epochs": epochs,
                             "batch_size": batch_size, "options": method_options(option) or {}, "amp": amp,
                             "image_size": image_size, "test_size": test_size}  # fmt: skip
    train_network(tuning.finetune, run, tuning.Request(**given), device, json, log, workers=workers,
                  sync_batch_norm=sync_batch_norm)  # fmt: skip
