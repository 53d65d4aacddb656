"""`pynas select`: the preferred architectures of a space, before any training or with trained weights (PreNAS)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    space: Annotated[
        str | None, typer.Option(help="An AutoFormer or BigNAS space, see `pynas spaces`.", show_default=False)
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run, instead of --space: select with its trained weights (the post-selector of figure 4).",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option(help="Width of the cost intervals, e.g. 1M parameters, 200M MAdds, 0.5 ms.")
    ] = "1M",
    top: Annotated[int, typer.Option(min=1, help="How many architectures of each interval.")] = 1,
    cost: Annotated[str, typer.Option(help="params, madds, memory or latency (measured on --device).")] = "params",
    start: Annotated[
        str | None, typer.Option(help="Only intervals that begin here or above. [default: all]", show_default=False)
    ] = None,
    stop: Annotated[
        str | None, typer.Option(help="Only intervals that begin below. [default: all]", show_default=False)
    ] = None,
    normaliser: Annotated[
        str | None,
        typer.Option(
            help="Scores among isomers: layer (eq. 13), balance (the released code's), or snip (eq. 4, the ablation of tables 4 "
            "and 8); not for convolutional spaces. "
            "[default: layer]",
            show_default=False,
        ),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            help="Best isomers: exact, or the paper's greedy; not for convolutional spaces. [default: exact]",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of the one backward pass.")] = 64,
    data: Annotated[
        str | None,
        typer.Option(help="Images with labels to score with. [default: random images, no labels]", show_default=False),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Classes of the network.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and images.")] = 0,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Folder for preferred.json. [default: runs/select-SPACE, or select in the trained run's]",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Select the preferred architectures of every cost interval, out of the whole space, and write preferred.json.

    Example: `pynas select --space autoformer-tiny --interval 1M --top 1`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.quantities import cost as read
    from pynas.runs import load
    from pynas.runs import select as selecting
    from pynas.runs.processes import choose_device
    from pynas.spaces import get

    first, last = (None if text is None else read(cost, text) for text in (start, stop))
    given: dict[str, Any] = {"cost": cost, "normaliser": normaliser, "allocation": allocation}
    selection = selecting.Selection(interval=read(cost, interval), top=top, start=first, stop=last, images=images, data=data,
                                    seed=seed, **given)  # fmt: skip
    digest = None
    if space is not None and trained is None:
        net, folder = selecting.fresh_net(get(space), classes, seed), run or Path("runs") / f"select-{space}"
    elif trained is not None and space is None:
        (net, digest), folder = selecting.trained_net(load(trained, device)), run or trained / "select"
    else:
        raise InputError(
            f"[select] expected one of --space and --trained, got {'neither' if space is None else 'both'}"
        )
    with display.bars() as bars:
        report = display.progress(bars).count("score images")
        preferred, seconds = selecting.preferred_space(net, selection, choose_device(device), report)
    content = selecting.save(folder, preferred, seconds, digest)
    if json:
        display.print_json(content)
        return
    display.print_preferred(content)
    display.say(f"Written to {folder / selecting.FILE}")
