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
from pynas.train import Step

out, err = Console(), Console(stderr=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars with counts, time so far and time to go."""
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=err) as progress:
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
        note = " ".join(f"{name} {loss:.3f}" for name, loss in step.losses.items())
        progress.update(tasks[0], completed=step.step, note=f"epoch {step.epoch} {note}")

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


def print_found(content: Mapping[str, Any]) -> None:
    """The architectures that a search found."""
    limits = ", ".join(f"{name} <= {show(value)}" for name, value in content["limits"].items())
    note = " (default: half way between least and most)" if content["limits_by_default"] else ""
    table = Table(title=f"Best architectures of {content['space_size']:,} under {limits}{note}")
    for heading in ("#", "architecture", "score", "parameters", "MAdds"):
        table.add_column(heading, justify="left" if heading == "architecture" else "right", no_wrap=True)
    for rank, entry in enumerate(content["found"], 1):
        table.add_row(
            str(rank), entry["architecture"], f"{entry['score']:.6f}", show(entry["params"]), show(entry["madds"])
        )
    out.print(table)
    out.print(
        f"Exact: {content['visited']:,} nodes visited, {content['pruned']:,} pruned, "
        f"no architecture scores below {content['lower_bound']:.6f}."
    )


def print_exported(content: Mapping[str, Any]) -> None:
    """A network that was taken out."""
    out.print(
        f"Exported {content['architecture']} with the supernet's weights: {content['test_accuracy']:.2%} top-1 on the test "
        f"images, {show(content['params'])} parameters, {show(content['madds'])} MAdds -> {content['file']}",
        soft_wrap=True,
    )
