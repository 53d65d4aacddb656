"""`pynas search`: the best architectures under limits, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a rated run.")],
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    max_memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="At most so many bytes of weights and layer outputs for one image, e.g. 20M."),
    ] = None,
    max_latency: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="At most so long for one image on --device, e.g. 12ms; measured once and kept."),
    ] = None,
    limit: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=VALUE: at most so much of any cost, also one of --costs. May be repeated."),
    ] = None,
    at_least: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=VALUE: at least so much of a cost. May be repeated."),
    ] = None,
    costs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file with costs of your own: block, cell, layer, candidate, and a column for each."),
    ] = None,
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Weight of each block's score, separated by commas. [default: 1 each]"),
    ] = None,
    trained: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file (architecture, accuracy) of a few trained nets: fit the weights to them."),
    ] = None,
    join: Annotated[str, typer.Option(help="How block scores join: sum or product.")] = "sum",
    front: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Also find the whole Pareto front of score and this cost, and draw it (PNG and SVG)."),
    ] = None,
    top_k: options.TopK = 5,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Find the architectures with the least joined score that keep every limit; no other one is better.

    Example: `pynas search runs/digits --max-madds 15M --max-params 400k --max-latency 12ms --top-k 10 --front madds`
    """
    from pynas.cli import display
    from pynas.runs import search as finding
    from pynas.runs.quantities import assignments, milliseconds, numbers
    from pynas.runs.recipes import registry as flows

    limits = counted_limits(max_madds, max_params, max_memory) | assignments(limit)
    if max_latency is not None:
        limits["latency"] = milliseconds(max_latency)
    this, chosen = flows.old_run(run, device), numbers(weights)
    fitted = None if trained is None else finding.fitted_weights(this, trained, chosen)
    wishes = finding.Wishes(
        limits, assignments(at_least), top_k, fitted["weights"] if fitted else chosen, join, front, costs
    )
    content = this.flow.find(this, wishes)
    if json:
        display.print_json({**content, "fitted": fitted} if fitted else content)
        return
    display.print_found(content)
    if fitted:
        display.say(f"Weights {', '.join(f'{w:.3f}' for w in fitted['weights'])}, fitted to {fitted['networks']} nets: tau "
                    f"{fitted['tau']:.3f}, of each net left out {fitted['left_out_tau']:.3f}; with equal weights "
                    f"{fitted['uniform_tau']:.3f}")  # fmt: skip
    if front is not None:
        found = content["front"]
        pictures = ", ".join(str(run / name) for name in found["pictures"])
        display.say(f"Front of score and {front}: {len(found['architectures']):,} architectures, drawn in {pictures}")
    display.say(f"Written to {run / 'search.json'}; next: pynas export --run {run}")


def counted_limits(madds: str | None, params: str | None, memory: str | None = None) -> dict[str, float]:
    """The limits that were given, by the name of the cost."""
    from pynas.runs.quantities import quantity

    given = {"madds": madds, "params": params, "memory": memory}
    return {name: quantity(value) for name, value in given.items() if value is not None}
