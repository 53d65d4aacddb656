"""`pynas benchmark`: speed, size, memory and accuracy of a run's networks in every runtime."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    architecture: Annotated[
        list[str] | None,
        typer.Option(help="Which one, in its string form or by a published name, see `pynas spaces --networks`; with fresh weights "
                     "where the run has none. May be repeated. [default: the retrained ones, else the exported one]",
                     show_default=False),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help=f"{options.RUNTIMES} May be repeated. [default: all that are installed]", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    threads: options.Threads = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. [default: the networks']", show_default=False)
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option(help="Measure each format's accuracy on so many test images; 0: not at all. [default: all]",
                     show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Batches that are timed; the median counts.")] = 10,
    training: Annotated[
        bool, typer.Option("--training", help="Time forward and backward passes together (BossNAS, table 1: 32 images).")
    ] = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Time networks in every runtime, in batches and for one image, beside file size, memory and accuracy (Pi-NAS, table 2).

    A format of int8 is quantised after the training: weights for each output channel, outputs by 512 training images.

    Example: `pynas benchmark runs/digits --threads 1`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.benchmark import benchmark
    from pynas.runs.processes import check_alone

    check_alone("benchmark")
    opened = load(run, device, workers=workers)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        content = benchmark(opened, architecture or (), image_size, batch_size, repeats, training, runtime or (), threads,
                            test_images)  # fmt: skip
    if json:
        display.print_json(content)
        return
    _print(content, "Forward and backward" if training else "Forward")


def _print(content: dict[str, Any], passes: str) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show

    rows = content["rows"]
    alone = any(row["latency"] is not None for row in rows)
    about = ("network", "weights", "image_size", "params", "madds")
    for (network, weights, side, params, madds), group in groupby(rows, lambda row: [row[key] for key in about]):
        table = Table(title=f"{network}, {weights}: {side} px, {show(params)} parameters, {show(madds)} MAdds")
        for heading in ("format", "file\n(bytes)", "top-1", f"1 {'image' if alone else 'batch'}\n(ms)", "images/s",
                        "memory\n(bytes)"):  # fmt: skip
            table.add_column(heading, justify="left" if heading == "format" else "right", no_wrap=True)
        for row in group:
            if row["refused"]:
                table.add_row(row["format"], "", "", "", "not taken", "")
                continue
            one = f"{row['latency']:.3g} ±{row['latency_spread']:.0%}" if alone else f"{row['batch_latency']:.4g}"
            table.add_row(row["format"], show(row["size"]), "" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2%}",
                          one, f"{row['images_per_second']:.4g} ±{row['spread']:.0%}",
                          "" if row["peak_memory"] is None else show(row["peak_memory"]))  # fmt: skip
        display.out.print(table)
    for refused in dict.fromkeys(row["refused"] for row in rows if row["refused"]):
        display.say(f"Not taken: {refused}")
    display.say(f"{passes} passes on {content['device']}, batches of {content['batch_size']}: medians of {content['repeats']} "
                f"repeats ± the interquartile range over it. Memory is the most at any time, weights and images included: by "
                f"{content['memory_source']}, which sees torch alone.")  # fmt: skip
