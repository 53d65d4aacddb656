"""`pynas scale`: a found network, deeper, wider and for larger images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    phi: Annotated[
        list[str],
        typer.Option(help="Depth 1.2^phi, width 1.1^phi, resolution 1.15^phi; or b0 to b7, the factors of that EfficientNet. "
                     "May be repeated."),
    ],
    architecture: options.Architecture = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:  # fmt: skip
    """Scale a found architecture by EfficientNet's compound rule (DNA, tables 4 and 11), count it, write it untrained.

    `pynas retrain --run RUN --phi PHI` trains it.

    Example: `pynas scale runs/digits --phi 1 --phi 2`
    """
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show
    from pynas.runs import load
    from pynas.runs.scale import scale

    content = scale(load(run, device), phi, architecture)
    if json:
        display.print_json(content)
        return
    table = Table(title=f"{content['architecture']}, scaled")
    for heading in ("phi", "depth", "width", "image side (px)", "parameters", "MAdds"):
        table.add_column(heading, justify="right")
    for each in content["networks"]:
        table.add_row(each["phi"], f"{each['depth']:.2f}", f"{each['width']:.2f}", str(each["image_size"]),
                      show(each["params"]), show(each["madds"]))  # fmt: skip
    display.out.print(table)
    display.say(f"Written to {run / 'scaled'}; next: pynas retrain --run {run} --recipe efficientnet --phi {phi[0]}")
