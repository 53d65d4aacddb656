"""`pynas report`: everything about a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    output: Annotated[
        Path | None, typer.Option(help="Where the page goes. [default: RUN/report.html]", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns architecture and accuracy (%): what networks reached when trained alone. "
            "[default: the published ones of the space, where there are any]",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write one self-contained HTML page: the network found, all scores, the front, training, costs, how to repeat it.

    Example: `pynas report runs/digits`
    """
    from pynas.cli import display
    from pynas.files import write_text
    from pynas.runs.report import run_page

    title, html, sections = run_page(run, truth)
    path = output or run / "report.html"
    write_text(path, html)
    if json:
        display.print_json({"run": str(run), "file": str(path), "title": title, "sections": sections})
    else:
        display.say(f"Written to {path}: {', '.join(sections)}")
