"""`pynas search`: the best architectures under limits, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a rated run.")],
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    top_k: options.TopK = 5,
    json: options.Json = False,
) -> None:
    """Find the architectures with the least sum of scores that keep every limit.

    Example: `pynas search runs/digits --max-madds 15M --max-params 400k --top-k 10`
    """
    from pynas.cli import display, stages
    from pynas.cli.settings import read_settings

    this = stages.Run(run, read_settings(run), "cpu")
    content = stages.find(this, limits(max_madds, max_params), top_k)
    if json:
        display.print_json(content)
    else:
        display.print_found(content)
        display.out.print(f"Written to {run / 'search.json'}; next: pynas export --run {run}", soft_wrap=True)


def limits(max_madds: str | None, max_params: str | None) -> dict[str, float]:
    """The limits that were given, by the name of the cost."""
    from pynas.cli.quantities import quantity

    given = {"madds": max_madds, "params": max_params}
    return {name: quantity(value) for name, value in given.items() if value is not None}
