"""`pynas stability`: what a search would have found after each of several epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was trained with --keep-epochs and rated.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="CSV file (architecture, accuracy) of trained nets. [default: the published ones of the space]",
                     show_default=False),
    ] = None,
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    retrain: Annotated[
        str | None,
        typer.Option(help="Train each different network found, once, by this recipe of `pynas retrain`, but for those in "
                     "--truth. [default: train none]", show_default=False),
    ] = None,
    epochs: options.TrainingEpochs = None,
    batch_size: options.TrainingBatchSize = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Rate and search the weights of each kept epoch, and compare with the last ones (DNA, figure 8).

    Writes stability.json, .png and .svg into the run's folder, and with --retrain a folder of each training, which goes on
    where it was stopped, into its retraining/.

    Example: `pynas stability runs/digits --max-madds 15M --retrain small --epochs 30`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.runs import load
    from pynas.runs.processes import check_alone
    from pynas.runs.retrain import Request
    from pynas.runs.stability import stability

    if retrain is None and (epochs or batch_size):
        raise InputError("[stability] expected --retrain RECIPE beside --epochs and --batch-size, got none")
    training = None if retrain is None else Request(recipe=retrain, epochs=epochs, batch_size=batch_size)
    check_alone("stability")
    opened = load(run, device, workers=workers)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        limits = options.limits(madds=max_madds, params=max_params)
        content = stability(opened, limits, truth, training)
    if json:
        display.print_json(content)
        return
    _print(content["epochs"])
    display.say(f"Written to {run / 'stability.json'}, drawn in {run / content['pictures'][0]}")


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from pynas.cli import display

    table = Table(title="What a search finds after each epoch")
    known = any(row["accuracy"] is not None for row in rows)
    ranked = any(row["accuracy_tau"] is not None for row in rows)
    headings = ["epoch", "training loss", "tau to the last", *["tau to accuracy"] * ranked, "found", "score",
                *["its accuracy (%)"] * known]  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "found" else "right", overflow="fold")
    for row in rows:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2f}"
        tau = [f"{row['accuracy_tau']:.3f}"] if ranked else []
        table.add_row(str(row["epoch"]), loss, f"{row['tau_to_last']:.3f}", *tau, row["found"], f"{row['score']:.6f}",
                      *[accuracy] * known)  # fmt: skip
    display.out.print(table)
