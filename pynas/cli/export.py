"""`pynas export`: a found network with its weights."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    architecture: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Which one, in its string form. [default: the best of search.json]", show_default=False),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Take a network out of the supernet, re-estimate its batch norm, measure it, write subnet.safetensors.

    Example: `pynas export --run runs/digits`
    """
    from pynas.cli import display, flows

    this = flows.old_run(run, device)
    content = this.flow.export(this, None if architecture is None else this.space.parse(architecture))
    if json:
        display.print_json(content)
    else:
        display.print_exported(content)
