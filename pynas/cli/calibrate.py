"""`pynas calibrate`: fit the scores to a few trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a rated run.")],
    train: Annotated[int, typer.Option(help="How many networks to fit to.")] = 20,
    choose: Annotated[
        str, typer.Option(help="Which: d-optimal, those that tell the weights of the linear fit apart best, or random.")
    ] = "d-optimal",
    model: Annotated[
        str,
        typer.Option(
            help="ridge, which is searched exactly, or gp: a Gaussian process also orders what the search by it found."
        ),
    ] = "ridge",
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Accuracies without training: a CSV file (architecture, accuracy), or published, for a space with a benchmark; "
            "only the networks chosen are looked up.",
            show_default=False,
        ),
    ] = None,
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    recipe: Annotated[str, typer.Option(help="Training, see `pynas retrain`.")] = "efficientnet-ra",
    epochs: Annotated[int | None, typer.Option(help="[default: the recipe's]", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: the recipe's]", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and of the trainings.")] = 0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    log: options.Log = None,
    json: options.Json = False,
) -> None:
    """Train a few networks from scratch and fit the scores to their accuracies; goes on where it was stopped.

    The fitted scores are sums over the blocks like those of the rating: `pynas search RUN --calibrated` searches them exactly.

    Example: `pynas calibrate runs/digits --train 20 --epochs 30 --max-madds 15M`
    """
    from pynas.cli import display
    from pynas.runs import calibrate, load
    from pynas.runs.tracking import tracking

    given: dict[str, Any] = {"train": train, "choose": choose, "model": model, "truth": truth, "recipe": recipe, "epochs": epochs,
                             "batch_size": batch_size, "seed": seed,
                             "limits": options.limits(madds=max_madds, params=max_params)}  # fmt: skip
    request = calibrate.Calibrating(**given)
    opened = load(run, device, workers=workers)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        with tracking(opened, log, tuple):
            content = calibrate.calibrate(opened, request)
    if json:
        display.print_json(content)
        return
    display.print_calibration(content)
    display.say(f"Next: pynas search {run} --calibrated")
