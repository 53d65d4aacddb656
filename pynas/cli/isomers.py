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
        int | None,
        typer.Option(
            help="At most so many subnets of each case, drawn where there are more. [default: 4096]", show_default=False
        ),
    ] = None,
    spaces: Annotated[
        int | None,
        typer.Option(
            help="Instead: draw so many networks from the whole space, and measure them and the best isomer of each by SNIP, "
            "with layer normalisation and without (figure 6).",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Random images of SNIP's backward pass.")] = 64,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Measure subnets of equal size on the validation images: their accuracy spans (table 7) and SNIP's mean best rank (table 8).

    Goes on where it was stopped. Writes isomers.json and isomers.png and .svg (figure 3) into the run's folder, with --spaces
    spaces.json and spaces.png and .svg.

    Example: `pynas isomers --run runs/prenas --vary mlp --dim 192 --depth 12`, `pynas isomers --run runs/prenas --spaces 500`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.runs import load
    from pynas.runs.isomer_spaces import compare_spaces
    from pynas.runs.isomers import Isomers, measure_isomers

    given: dict[str, Any] = {"vary": vary}
    if sample is not None:
        given["sample"] = sample
    request = Isomers(dim=dim, depth=depth, images=images, **given)
    if spaces is not None and (vary != "both" or (dim, depth, sample) != (None, None, None)):
        raise InputError("[isomers] expected --spaces without --vary, --dim, --depth and --sample, as it draws from the whole "
                         "space, got one of them")  # fmt: skip
    opened = load(run, device, workers=workers)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        content = measure_isomers(opened, request) if spaces is None else compare_spaces(opened, spaces, images)
    if json:
        display.print_json(content)
        return
    if spaces is None:
        display.print_isomers(content["cases"])
    else:
        _print_spaces(content)
    pictures = ", ".join(str(run / name) for name in content["pictures"])
    display.say(f"Written to {run / ('isomers.json' if spaces is None else 'spaces.json')}, drawn in {pictures}")


def _print_spaces(content: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.runs.isomer_spaces import LABELS

    table = Table(title=f"{content['networks']:,} networks of each space on the validation images")
    for heading in ("space", "mean error (%)", "better than in A", "worse"):
        table.add_column(heading, justify="left" if heading == "space" else "right")
    for name, each in content["spaces"].items():
        table.add_row(
            LABELS[name], f"{each['mean_error']:.3f}", f"{each['better_than_a']:.1%}", f"{each['worse_than_a']:.1%}"
        )
    display.out.print(table)
    display.say(
        "The best isomer of each network is found exactly, as the selector's allocation exact does; its own counts as equal."
    )
