"""`pynas export`: a found network with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    architecture: Annotated[
        str | None,
        typer.Option(help="Which one, in its string form. [default: the best of search.json]", show_default=False),
    ] = None,
    max_params: options.MaxParams = None,
    max_madds: Annotated[
        str | None,
        typer.Option(help="At most so many multiply-adds: the best that `pynas search` finds within the limits."),
    ] = None,
    subnet: Annotated[
        Path | None,
        typer.Option(
            help="A file that was written before, say by `pynas retrain`, instead of taking a network out.",
            show_default=False,
        ),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(help="Folder for model.py, which needs torch alone, and its weights.", show_default=False),
    ] = None,
    torch_export: Annotated[
        Path | None, typer.Option(help="File for torch.export.load (.pt2).", show_default=False)
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="ONNX file for any batch size.", show_default=False)] = None,
    onnx_int8: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file of 8 bits, quantised after the training on 512 training images; its accuracy is measured.",
            show_default=False,
        ),
    ] = None,
    hub: Annotated[
        Path | None,
        typer.Option(
            help="Folder in timm's form for a hub: config.json, model.safetensors, and a model card.",
            show_default=False,
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(help="USER/NAME: push that folder to the hub of Hugging Face.", show_default=False),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of these formats in pixels; a vision transformer's positions are resampled. "
            "[default: the network's]",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Take a network out of the supernet, re-estimate its batch norm, measure it, write subnet.safetensors.

    Example: `pynas export --run runs/digits --python digits_net --onnx digits.onnx`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.runs import load
    from pynas.runs.export import write_formats, written_subnet
    from pynas.runs.hub import check_push, write_hub

    if subnet is not None and architecture is not None:
        raise InputError("[export] expected one of --subnet and --architecture, got both")
    limits = options.limits(madds=max_madds, params=max_params)
    if limits and (subnet is not None or architecture is not None):
        raise InputError("[export] expected limits, --subnet or --architecture, got limits and another")
    if image_size is not None and all(path is None for path in (python, torch_export, onnx, onnx_int8)):
        raise InputError("[export] expected --python, --torch-export or --onnx beside --image-size, got none of them")
    check_push(hub, push)
    opened = load(run, device, workers=workers)
    if limits:
        opened.search(limits)
    content = opened.export(architecture) if subnet is None else written_subnet(opened, subnet)
    written = write_formats(opened, Path(content["file"]), python, torch_export, onnx, image_size, onnx_int8)
    written |= {} if hub is None else write_hub(opened, Path(content["file"]), hub, push)
    if json:
        display.print_json(content | written)
        return
    if subnet is None:
        display.print_exported(content)
    for name in ("python", "torch_export", "onnx", "hub"):
        if name in written:
            display.say(f"Written and checked: {written[name]}")
    if onnx_int8 is not None:
        display.say(f"Written, {written['onnx_int8_accuracy']:.2%} top-1 on the test images with 8 bits: {onnx_int8}")
    if "pushed" in written:
        display.say(f"Pushed to {written['pushed']}")
