"""`pynas benchmark`: images a second and memory of a run's networks."""

from __future__ import annotations

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
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. [default: the networks']", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(help="Batches that are timed; the median counts.")] = 10,
    training: Annotated[
        bool, typer.Option("--training", help="Time forward and backward passes together (BossNAS, table 1: 32 images).")
    ] = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Time the forward pass of networks in batches and for one image, and count memory, parameters and MAdds (Pi-NAS, table 2).

    Example: `pynas benchmark runs/pinas --architecture Pi-NAS-cls --architecture ResNeSt-50`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.benchmark import benchmark
    from pynas.runs.processes import check_alone

    check_alone("benchmark")
    opened = load(run, device, workers=workers)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        content = benchmark(opened, architecture or (), image_size, batch_size, repeats, training)
    if json:
        display.print_json(content)
        return
    _print(content, "Forward and backward" if training else "Forward")


def _print(content: dict[str, Any], passes: str) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show

    rows = content["rows"]
    table = Table(title=f"{passes} passes on {content['device']}, batches of {content['batch_size']}")
    alone = rows[0]["latency"] is not None
    columns = (
        "images/s",
        f"1 {'image' if alone else 'batch'}\n(ms)",
        "memory\n(bytes)",
        "para-\nmeters",
        "MAdds",
        "top-1",
    )
    for heading in ("network", *columns):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=heading != "network")
    for row in rows:
        one = f"{row['latency']:.3g}\n±{row['latency_spread']:.0%}" if alone else f"{row['batch_latency']:.4g}"
        accuracy = "" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2%}"
        table.add_row(f"{row['network']}\n{row['weights']}, {row['image_size']} px, {row['format']}",
                      f"{row['images_per_second']:.4g}\n±{row['spread']:.0%}", one, show(row["peak_memory"]), show(row["params"]),
                      show(row["madds"]), accuracy)  # fmt: skip
    display.out.print(table)
    display.say(f"Medians of {content['repeats']} repeats; below each the interquartile range over it. Memory is the most at any "
                f"time, weights and images included: by {content['memory_source']}.")  # fmt: skip
