"""What the user sees: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pynas.cli.quantities import show
from pynas.costs import UNITS
from pynas.train import Step

out, err = Console(), Console(stderr=True)


@contextlib.contextmanager
def progress_bar(visible: bool = True) -> Iterator[Progress]:
    """Bars with counts, time so far and time to go."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=err, disable=not visible) as progress:
        yield progress


def teacher_reporter(progress: Progress) -> Callable[[int, int, float], None]:
    """A bar for the epochs of a small teacher, added when the first one ends."""
    tasks: list[Any] = []

    def report(done: int, epochs: int, loss: float) -> None:
        if not tasks:
            tasks.append(progress.add_task("train teacher", total=epochs, note=""))
        progress.update(tasks[0], completed=done, note=f"loss {loss:.3f}")

    return report


def step_reporter(progress: Progress) -> Callable[[Step], None]:
    """A bar for the steps of a training."""
    tasks: list[Any] = []

    def report(step: Step) -> None:
        if not tasks:
            tasks.append(progress.add_task("train supernet", total=step.steps, note=""))
        progress.update(tasks[0], completed=step.step, note=f"epoch {step.epoch}, loss {sum(step.losses.values()):.3f}")

    return report


def rate_reporter(progress: Progress) -> Callable[[int, int], None]:
    """A bar for the paths of a rating."""
    task = progress.add_task("rate paths", total=None, note="")

    def report(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    return report


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(content, indent=2))


def say(text: str) -> None:
    """A line that is not broken, so that paths can be copied."""
    out.print(text, soft_wrap=True, highlight=False)


def show_cost(name: str, value: float) -> str:
    """A cost with its unit or suffix."""
    return f"{value:.3f} ms" if name == "latency" else show(value)


def print_found(content: Mapping[str, Any]) -> None:
    """The architectures that a search found."""
    limits = [f"{name} <= {show_cost(name, value)}" for name, value in content["limits"].items()]
    limits += [f"{name} >= {show_cost(name, value)}" for name, value in content["at_least"].items()]
    note = " (default: half way between least and most)" if content["limits_by_default"] else ""
    table = Table(title=f"Best architectures of {content['space_size']:,} under {', '.join(limits)}{note}")
    # The costs that everybody wants, and those that were asked about.
    names = dict.fromkeys(["params", "madds", *content["limits"], *content["at_least"]])
    for heading in ("#", "architecture", "score", *(UNITS.get(name, name) for name in names)):
        table.add_column(heading, justify="left" if heading == "architecture" else "right", no_wrap=True)
    for rank, entry in enumerate(content["found"], 1):
        costs = (f"{entry[name]:.3f}" if name == "latency" else show(entry[name]) for name in names)
        table.add_row(str(rank), entry["architecture"], f"{entry['score']:.6f}", *costs)
    out.print(table)
    if content["exhausted"]:
        say(f"Only {len(content['found'])} of the {content['top_k']} asked for keep the limits; these are all.")
    say(
        f"Exact: {content['visited']:,} nodes visited, {content['pruned']:,} pruned, "
        f"no architecture scores below {content['lower_bound']:.6f}."
    )
    if "latency_table" in content:
        note = content["latency_table"]
        say(
            f"Latency on {note['device']}, batch of {note['batch_size']}, median of {note['repeats']} (median spread "
            f"{note['median_spread']:.0%}); {note['checked_nets']} whole nets differ from their sums by "
            f"{note['mean_error']:.0%} on average, by {note['mean_error_scaled']:.0%} scaled by {note['whole_over_sum']:.2f}."
        )


def print_exported(content: Mapping[str, Any]) -> None:
    """A network that was taken out."""
    say(
        f"Exported {content['architecture']} with the supernet's weights: {content['test_accuracy']:.2%} top-1 on the "
        f"test images, {show(content['params'])} parameters, {show(content['madds'])} MAdds -> {content['file']}"
    )
