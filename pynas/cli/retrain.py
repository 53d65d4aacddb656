"""`pynas retrain`: train a found network by one of the papers' recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    recipe: Annotated[str, typer.Option(help="deit (AdamW, cosine) or efficientnet (RMSprop, steps).")] = "deit",
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Which one, in its string form. [default: the exported one, else the best found]", show_default=False
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="scratch, or inherited: the supernet's weights, as `pynas export` wrote them.")
    ] = "scratch",
    epochs: Annotated[int | None, typer.Option(help="[default: the recipe's]", show_default=False)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="The learning rate follows in proportion. [default: the recipe's]", show_default=False),
    ] = None,
    distill: Annotated[float, typer.Option(help="Weight of the run's teacher in the loss, 0 to 1.")] = 0.0,
    kind: Annotated[str, typer.Option("--distill-kind", help="soft (KL) or hard (the teacher's decision).")] = "soft",
    temperature: Annotated[float, typer.Option(help="Of the soft distillation.")] = 1.0,
    amp: Annotated[bool, typer.Option("--amp", help="bfloat16 autocast.")] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. [default: the run's]", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train a found network on all training images and measure it; goes on where it was stopped.

    Writes retraining/NAME/: checkpoints, metrics.jsonl, report.json (top-1, top-5) and subnet.safetensors. Under torchrun
    the processes share every batch.

    Example: `pynas retrain --run runs/digits --recipe efficientnet --epochs 30 --batch-size 128 --distill 0.5`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs import retrain as retraining
    from pynas.runs.processes import process_group
    from pynas.train.team import is_first_process

    given: dict[str, Any] = {"recipe": recipe, "architecture": architecture, "start": start, "epochs": epochs,
                             "batch_size": batch_size, "distill": distill, "distill_kind": kind, "temperature": temperature,
                             "amp": amp, "image_size": image_size}  # fmt: skip
    request = retraining.Request(**given)
    opened = load(run, device)
    with process_group(opened.device, run), display.bars(is_first_process()) as bars:
        opened.progress = display.progress(bars)
        content = retraining.retrain(opened, request, workers)
        if not is_first_process():
            return
    if json:
        display.print_json(content)
    else:
        display.say(f"{content['architecture']}: {content['top1']:.2%} top-1, {content['top5']:.2%} top-5 on the test "
                    f"images after {content['epochs']} epochs from {content['from']} -> {content['file']}")  # fmt: skip
