"""`pynas latency`: candidates and whole networks, measured in the runtime that will serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options

# Of more candidates, the table has those of the first blocks.
_ROWS = 80


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run; it need not be trained.")],
    runtime: options.Runtime = "torch",
    batch_size: options.ServedBatch = 1,
    threads: options.Threads = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the table, whose cost is then latency@NAME. [default: the runtime, device, batch size and "
                     "threads; its cost is latency]", show_default=False),
    ] = None,
    networks: Annotated[int, typer.Option(help="Whole networks to check the sums of candidates on and to correct them by.")] = 12,
    correct: Annotated[bool, typer.Option("--correct/--no-correct", help="Whether these networks correct the table.")] = True,
    repeats: Annotated[int, typer.Option(help="How often each is timed; the median counts.")] = 20,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:  # fmt: skip
    """Measure every candidate and some whole networks in the runtime that will serve them; searches then limit their latency.

    Sums of candidates differ from whole networks, as runtimes join operators across their borders: the table is corrected by a
    formula fitted to the whole networks, and its error on networks left out is printed. `pynas search --max-latency` with the same
    options uses the table, and measures it where it is not there. A table by --name is the cost latency@NAME, so that several
    workloads can have a limit each.

    Example: `pynas latency runs/digits --runtime onnxruntime --threads 1`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.latency import measure_latency
    from pynas.runs.processes import check_alone
    from pynas.runtimes import Workload

    check_alone("latency")
    opened = load(run, device)
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        table = measure_latency(
            opened, Workload(runtime, opened.device, batch_size, threads), name, networks, repeats, correct
        )
    (cost,) = table.names
    about = table.metadata[cost]
    if json:
        display.print_json({"cost": cost, **about})
        return
    _print_candidates(about["candidates"])
    _print_networks(cost, about)
    display.say(f"Drawn in {', '.join(str(run / picture) for picture in about['pictures'])}")
    option = f"--limit {cost}=" if "@" in cost else f"--runtime {runtime} --batch-size {batch_size} --max-latency "
    display.say(f"Next: pynas search {run} {option}{_middle(about):.3g}ms")


def _middle(about: dict[str, Any]) -> float:
    """Return a latency that some networks keep and others do not."""
    found = sorted(row["measured"] for row in about.get("networks", ())) or [row["ms"] for row in about["candidates"]]
    return found[len(found) // 2]


def _print_candidates(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show

    table = Table(title=f"{len(rows)} different candidates" + f", the first {_ROWS}" * (len(rows) > _ROWS))
    for heading in ("block", "cell", "layer", "candidate", "input", "parameters", "MAdds", "ms", "spread"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right", no_wrap=True)
    for row in rows[:_ROWS]:
        place = row["place"]
        at = ["", "", ""] if isinstance(place[0], str) else [str(number) for number in place[:3]]
        table.add_row(*at, row["name"], "×".join(map(str, row["input"])), show(row["params"]), show(row["madds"]),
                      f"{row['ms']:.4f}", f"{row['spread']:.0%}")  # fmt: skip
    display.out.print(table)


def _print_networks(cost: str, about: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show
    from pynas.runs.latency import describe_latency

    rows = about.get("networks", [])
    if rows:
        table = Table(title="Whole networks (ms)")
        for heading in ("architecture", "MAdds", "sum", "corrected", "measured", "spread"):
            left = heading == "architecture"
            table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
        for row in rows:
            values = (f"{row[key]:.3f}" for key in ("sum", "corrected", "measured"))
            table.add_row(row["architecture"], show(row["madds"]), *values, f"{row['spread']:.0%}")
        display.out.print(table)
    display.say(f"{cost}: {describe_latency(about)}")
    if rows:
        display.say(f"Kendall's tau with the measured latency of these networks: MAdds {about['tau_madds']:.2f}, the table "
                    f"{about['tau_sum']:.2f}.")  # fmt: skip
