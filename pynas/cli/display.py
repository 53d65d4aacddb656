"""What the user sees: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pynas.costs import UNITS
from pynas.runs.quantities import show
from pynas.train import Step

out, err = Console(), Console(stderr=True)


@contextlib.contextmanager
def progress_bar(visible: bool = True) -> Iterator[Progress]:
    """Bars with counts, time so far and time to go."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=err, disable=not visible) as progress:
        yield progress


class StepLog(Protocol):
    """Something that hears of every step of the trainings it is asked to follow."""

    def steps(self, what: str) -> Callable[[Step], None]:
        """For the steps of one training, by its name."""


class Show:
    """Makes what the stages report their progress to: bars on `progress`, or nothing where it is None; steps also to `log`."""

    def __init__(self, progress: Progress | None, log: StepLog | None = None) -> None:
        self._progress, self._log = progress, log

    def teacher(self, what: str = "train teacher") -> Callable[[int, int, float], None] | None:
        """For (epochs done, epochs, mean loss)."""
        update = self._bar(what)
        return update and (lambda done, epochs, loss: update(done, epochs, f"loss {loss:.3f}"))

    def steps(self, what: str = "train supernet") -> Callable[[Step], None] | None:
        """For the steps of a training."""
        update = self._bar(what)
        log = self._log.steps(what) if self._log is not None else None

        def report(step: Step) -> None:
            if update is not None:
                update(step.step, step.steps, f"epoch {step.epoch}, loss {sum(step.losses.values()):.3f}")
            if log is not None:
                log(step)

        return report if update or log else None

    def paths(self, what: str = "rate paths") -> Callable[[int, int], None] | None:
        """For (path evaluations done, in all)."""
        update = self._bar(what)
        return update and (lambda done, total: update(done, total, ""))

    def images(self, what: str = "score images") -> Callable[[int, int], None] | None:
        """For (images done, in all)."""
        return self.paths(what)

    def _bar(self, what: str) -> Callable[[int, int, str], None] | None:
        """A bar that is added when it first moves."""
        progress = self._progress
        tasks: list[Any] = []
        if progress is None:
            return None

        def update(done: int, total: int, note: str) -> None:
            if not tasks:
                tasks.append(progress.add_task(what, total=total, note=""))
            progress.update(tasks[0], completed=done, total=total, note=note)

        return update


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
        # NAS-Bench-201's long names are broken rather than everything else cut.
        name = heading == "architecture"
        table.add_column(heading, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for rank, entry in enumerate(content["found"], 1):
        costs = (f"{entry[name]:.3f}" if name == "latency" else show(entry[name]) for name in names)
        table.add_row(str(rank), entry["architecture"], f"{entry['score']:.6f}", *costs)
    out.print(table)
    if content["exhausted"]:
        say(f"Only {len(content['found'])} of the {content['top_k']} asked for keep the limits; these are all.")
    if "rated" in content:
        say(f"The best of {content['rated']:,} that {content['search']} rated; others were not looked at.")
    else:
        say(
            f"Exact: {content['visited']:,} nodes visited, {content['pruned']:,} pruned, "
            f"no architecture scores below {content['lower_bound']:.6f}."
        )
    for each in content.get("generations", ()):
        tau = "" if each["tau_to_last"] is None else f", tau to the generation before {each['tau_to_last']:.3f}"
        by = "" if each["teacher_accuracy"] is None else f", taught at {each['teacher_accuracy']:.2%}"
        say(f"Generation {each['generation']}: {each['architecture']}{by}{tau}")
    if "latency_table" in content:
        note = content["latency_table"]
        say(
            f"Latency on {note['device']}, batch of {note['batch_size']}, median of {note['repeats']} (median spread "
            f"{note['median_spread']:.0%}); {note['checked_nets']} whole nets differ from their sums by "
            f"{note['mean_error']:.0%} on average, by {note['mean_error_scaled']:.0%} scaled by {note['whole_over_sum']:.2f}."
        )


def print_preferred(content: Mapping[str, Any]) -> None:
    """The preferred architectures of a space."""
    cost = content["cost"]
    table = Table(
        title=f"Preferred architectures of {content['space_size']:,}, {content['metadata']['top']} per interval"
    )
    names = dict.fromkeys([cost, "params", "madds"])
    keys = list(content["architectures"][0])
    # The field's words, or else its notation.
    words = keys[keys.index("architecture") + 1 : keys.index("interval")] or ["architecture"]
    for heading in ("from", "to", *(UNITS.get(name, name) for name in names), *words, "SNIP"):
        left = isinstance(content["architectures"][0].get(heading), list | str)
        name = {"ratios": "MLP ratios"}.get(heading, heading)
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for entry in content["architectures"]:
        bounds = [show_cost(cost, bound) for bound in entry["interval"]]
        costs = (show_cost(name, entry[name]) for name in names)
        table.add_row(*bounds, *costs, *(_said(entry[word]) for word in words), f"{entry['snip']:.5g}")
    out.print(table)
    seconds = content["seconds"]
    say(f"Selected in {seconds['selection']:.2f} s after a backward pass of {seconds['backward']:.1f} s.")


def _said(value: Any) -> str:
    """A number, or numbers in a row."""
    if isinstance(value, list):
        return " ".join(map(_said, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_estimate(content: Mapping[str, Any]) -> None:
    """What a dry run found out."""
    images, costs = content["images"], content["costs"]
    table = Table(title=f"{content['method']} on {content['space']}, {content['device']}", show_header=False)
    paths = " ".join(f"{count:,}" for count in content["paths_per_block"])
    rows = {
        "architectures": f"{content['architectures']:,} (paths per block: {paths})",
        "images": ", ".join(f"{part} {count:,}" for part, count in images.items())
        + f" of {'x'.join(map(str, content['image_shape']))}, {content['classes']} classes",
        "supernet": f"{show(content['supernet_parameters'])} parameters",
        **{UNITS[name]: f"{show(low)} to {show(high)} in the space" for name, (low, high) in costs.items()},
        "training": f"{content['steps']:,} steps of {content['seconds_per_step']:.3g} s: "
        f"{duration(content['training_seconds'])} (a small teacher's own comes on top)",
        "rating": f"{show(content['rating_madds_per_image'])} MAdds per image: about {duration(content['rating_seconds'])}",
        "memory": f"{show(content['memory_bytes'])} bytes at the peak of a step",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def print_exported(content: Mapping[str, Any]) -> None:
    """A network that was taken out."""
    say(
        f"Exported {content['architecture']} with the supernet's weights: {content['test_accuracy']:.2%} top-1 on the "
        f"test images, {show(content['params'])} parameters, {show(content['madds'])} MAdds -> {content['file']}"
    )
    if "note" in content:
        say(content["note"])
