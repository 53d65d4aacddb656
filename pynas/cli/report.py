"""`pynas report`: everything about a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of a run, finished or not; of several, to compare them with the first.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the page goes. [default: RUN/report.html, of several RUN/comparison.html in the first]",
            show_default=False,
        ),
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

    Example: `pynas report runs/digits`; `pynas report runs/digits runs/other` compares them
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.files import write_text
    from pynas.runs.compared import comparison_page
    from pynas.runs.report import run_page

    if len(runs) > 1 and truth is not None:
        raise InputError(f"[report] expected --truth beside one run, got {len(runs)} runs")
    title, html, sections = run_page(runs[0], truth) if len(runs) == 1 else comparison_page(runs)
    path = output or runs[0] / ("report.html" if len(runs) == 1 else "comparison.html")
    write_text(path, html)
    if json:
        display.print_json({"runs": list(map(str, runs)), "file": str(path), "title": title, "sections": sections})
    else:
        display.say(f"Written to {path}: {', '.join(sections)}")
