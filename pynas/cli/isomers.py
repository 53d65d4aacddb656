"""`pynas isomers`: equally large subnets of a trained AutoFormer supernet, and how well SNIP picks among them (PreNAS)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: options.RunFolder,
    vary: Annotated[
        str, typer.Option(help="mlp (case 1 of appendix A: equal heads), heads (case 2: equal MLP ratios), or both.")
    ] = "both",
    dim: Annotated[
        int | None, typer.Option(help="Embedding dimension. [default: the space's smallest]", show_default=False)
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Layers. [default: the space's least]", show_default=False)] = None,
    sample: Annotated[
        int, typer.Option(help="At most so many subnets of each case, drawn where there are more.")
    ] = 4096,
    images: Annotated[int, typer.Option(help="Random images of SNIP's backward pass.")] = 64,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Measure subnets of equal size on the validation images: their accuracy spans (table 7) and SNIP's mean best rank (table 8).

    Goes on where it was stopped. Writes isomers.json into the run's folder.

    Example: `pynas isomers --run runs/prenas --vary mlp --dim 192 --depth 12`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.isomers import Isomers, measure_isomers

    given: dict[str, Any] = {"vary": vary}
    request = Isomers(dim=dim, depth=depth, sample=sample, images=images, **given)
    opened = load(run, device)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        content = measure_isomers(opened, request)
    if json:
        display.print_json(content)
        return
    display.print_isomers(content["cases"])
    display.say(f"Written to {run / 'isomers.json'}")
