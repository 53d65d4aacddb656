"""`pynas export`: a found network with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    architecture: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Which one, in its string form. [default: the best of search.json]", show_default=False),
    ] = None,
    max_params: options.MaxParams = None,
    max_madds: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="At most so many multiply-adds: the best that `pynas search` finds within the limits."),
    ] = None,
    subnet: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="A file that was written before, say by `pynas retrain`, instead of taking a network out.",
            show_default=False,
        ),
    ] = None,
    python: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for model.py, which needs torch alone, and its weights.", show_default=False),
    ] = None,
    torch_export: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File for torch.export.load (.pt2).", show_default=False),
    ] = None,
    onnx: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="ONNX file, run once where onnxruntime is installed.", show_default=False),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Take a network out of the supernet, re-estimate its batch norm, measure it, write subnet.safetensors.

    Example: `pynas export --run runs/digits --python digits_net --onnx digits.onnx`
    """
    from pynas.cli import display
    from pynas.cli.search import counted_limits
    from pynas.errors import InputError
    from pynas.runs import export as exporting
    from pynas.runs import search as finding
    from pynas.runs.recipes import registry as flows

    if subnet is not None and architecture is not None:
        raise InputError("[export] expected one of --subnet and --architecture, got both")
    limits = counted_limits(max_madds, max_params)
    if limits and (subnet is not None or architecture is not None):
        raise InputError("[export] expected limits, --subnet or --architecture, got limits and another")
    this = flows.old_run(run, device)
    if limits:
        this.flow.find(this, finding.Wishes(limits))
    if subnet is None:
        content = this.flow.export(this, None if architecture is None else this.space.parse(architecture))
    else:
        content = exporting.measured(this, subnet)
    written = exporting.write_formats(this, Path(content["file"]), python, torch_export, onnx)
    if json:
        display.print_json(content | written)
        return
    if subnet is None:
        display.print_exported(content)
    for name in ("python", "torch_export", "onnx"):
        if name in written:
            display.say(f"Written and checked: {written[name]}")
