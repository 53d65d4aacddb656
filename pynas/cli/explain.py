"""`pynas explain`: why a network was not chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a searched run.")],
    architecture: Annotated[
        str, typer.Argument(help="An architecture in its string form, or a published network's name.")
    ],
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Say why the last search of a run did not choose a network: limits and rules that it breaks, its rank, its blocks, and which
    network of no more cost beats it.

    Example: `pynas explain runs/digits '3|00|00|00'`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.explain import explain

    content = explain(load(run, device), architecture)
    if json:
        display.print_json(content)
        return
    for line in _sentences(content):
        display.say(line)
    _print_blocks(content)
    display.say(_beaten(content))


def _sentences(content: Mapping[str, Any]) -> list[str]:
    """Say how a network stands: its score, what it breaks, and its rank."""
    from pynas.quantities import show_cost

    best = content["best"]
    lines = [f"{content['architecture']}: {_entry(content, content)}",
             f"The best within the limits, {best['architecture']}: {_entry(best, content)}"]  # fmt: skip
    for each in content["broken"]:
        name, value, limit = each["cost"], each["value"], each["limit"]
        over, side = abs(value - limit), "above the limit of" if each["side"] == "limits" else "below the least of"
        share = f" ({over / limit:.1%})" if limit else ""
        lines.append(f"It breaks a limit: {name} {show_cost(name, value)} is {show_cost(name, over)}{share} {side} "
                     f"{show_cost(name, limit)}.")  # fmt: skip
    lines += [f"It breaks a rule: {rule}." for rule in content["rules"]]
    many = f"{content['better']:,}" if content["counted"] else f"More than {content['better']:,}"
    if content["rank"] is not None:
        lines.append(
            f"Rank {content['rank']:,} of the architectures within the limits, in a space of {content['space_size']:,}."
        )
    else:
        lines.append(f"{many} architectures within the limits have a better score.")
    return lines


def _entry(entry: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Write the score of an entry, and the costs that the explanation compares."""
    from pynas.quantities import show_cost

    return ", ".join(
        [f"score {entry['score']:.6f}", *(f"{name} {show_cost(name, entry[name])}" for name in content["compared"])]
    )


def _print_blocks(content: Mapping[str, Any]) -> None:
    """Print a network's choice in every block beside the best there."""
    from rich.table import Table

    from pynas.cli import display

    table = Table(
        title="Block by block, counted from 0: scores as they are summed, and the best rated path whatever it costs"
    )
    for heading in ("block", "choice", "score", "best", "its score", "rank", "paths"):
        table.add_column(heading, justify="left" if heading in ("choice", "best") else "right")
    for number, block in enumerate(content["blocks"]):
        table.add_row(str(number), block["choice"], f"{block['score']:.6f}", block["best"], f"{block['best_score']:.6f}",
                      f"{block['rank']:,}", f"{block['paths']:,}")  # fmt: skip
    display.out.print(table)


def _beaten(content: Mapping[str, Any]) -> str:
    """Say which network beats the one explained at its costs."""
    names, rival = ", ".join(content["compared"]), content["beaten_by"]
    if rival is None and content["rules"]:
        return f"No architecture that keeps the rules beats it at its {names}."
    if rival is None:
        return f"Nothing beats it at its {names}: it is on the front of score and these."
    return f"Beaten at its {names} by {rival['architecture']}: {_entry(rival, content)}."
