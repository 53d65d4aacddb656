"""Draw what a compression took from each unit of a model, what that costs in loss, and what it saves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pynas.report.figures import SMALL

_COLOURS = {"channels": "tab:blue", "heads": "tab:orange"}
# Longest name beside a bar.
_LONGEST = 26


@dataclass(frozen=True)
class Row:
    """A unit: its name, the shares of its hidden channels and heads that stay, by kind, and what else is cut."""

    name: str
    shares: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Group:
    """A block: its units in the order in which they run, the score of its chosen path, and the share of a cost that it saves."""

    rows: Sequence[Row]
    score: float
    saved: float


def units_figure(groups: Sequence[Group], loss: str, cost: str) -> Figure:
    """Draw a row per unit with bars of what stays of it, and beside them a bar per block: its loss, and its saving.

    loss: name of the loss. cost: heading of the cost that is saved.
    """
    rows = [row for group in groups for row in group.rows]
    figure = Figure(figsize=(5.6, 1.1 + 0.21 * len(rows)), layout="constrained")
    stays, lost, saved = figure.subplots(1, 3, sharey=True, width_ratios=(1.7, 1, 1))
    for number, row in enumerate(rows):
        _draw_row(stays, number, row)
    start = 0
    for number, group in enumerate(groups):
        size = len(group.rows)
        centre, height = start + (size - 1) / 2, size - 0.25
        if number % 2:
            for axes in (stays, lost, saved):
                axes.axhspan(start - 0.5, start + size - 0.5, color="0.5", alpha=0.1, linewidth=0)
        lost.barh(centre, group.score, height, color="tab:red", alpha=0.7)
        saved.barh(centre, group.saved, height, color="tab:green", alpha=0.7)
        start += size
    stays.set_yticks(range(len(rows)), _shortened([row.name for row in rows]))
    stays.set_ylim(len(rows) - 0.5, -0.5)
    stays.set_xlim(0, 1)
    for axes, label in ((stays, "stays"), (lost, f"{loss}\nof the block"), (saved, f"{cost}\nsaved")):
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(2))
        axes.xaxis.set_major_formatter(_number if axes is lost else _percent)
        axes.axvline(0, color="0.5", linewidth=0.5)
        axes.tick_params(axis="y", length=0)
    kinds = [kind for kind in _COLOURS if any(kind in row.shares for row in rows)]
    marks: list[Patch | Line2D] = [Patch(color=_COLOURS[kind], alpha=0.7, label=kind) for kind in kinds]
    if marks:
        figure.legend(handles=marks, loc="outside upper left", ncols=len(marks))
    return figure


def losses_figure(points: Mapping[str, tuple[float, float, float | None]], loss: str) -> Figure:
    """Draw the measured loss of each network, and that after a distillation, against the predicted one.

    points: predicted, measured and distilled loss (None in all without a distillation) by the network's name.
    """
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.add_subplot()
    predicted, measured, distilled = zip(*points.values())
    top = max(*predicted, *measured)
    axes.plot((0, top), (0, top), color="0.5", linewidth=1, linestyle="--", label="predicted = measured")
    axes.scatter(predicted, measured, s=25, color="tab:blue", label="measured")
    if None not in distilled:
        axes.scatter(predicted, distilled, s=25, marker="^", color="tab:green", label="after distillation")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"predicted {loss}: sum of the block scores")
    axes.set_ylabel(f"{loss} on the samples")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _draw_row(axes: Axes, number: int, row: Row) -> None:
    """Draw bars of a unit, one below the other, on a bar of the whole unit."""
    axes.barh(number, 1, 0.75, color="0.5", alpha=0.15)
    height = 0.75 / max(1, len(row.shares))
    for place, (kind, share) in enumerate(row.shares.items()):
        axes.barh(number - 0.375 + height * (place + 0.5), share, height, color=_COLOURS[kind], alpha=0.7)
    if row.note:
        axes.text(0.98, number, row.note, ha="right", va="center", fontsize="small")


def _number(value: float, place: object) -> str:
    return f"{value:.3g}".replace("e-0", "e-")


def _percent(value: float, place: object) -> str:
    return f"{100 * value:.3g}%"


def _shortened(names: Sequence[str]) -> list[str]:
    """Names that fit beside the bars: without the modules that all are in, and of one that is still too long its end."""
    split, shared = [name.split(".") for name in names], 0
    if max(map(len, names)) > _LONGEST:
        modules = zip(*(parts[:-1] for parts in split))
        shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, modules))
    rests = ["…" * bool(shared) + ".".join(parts[shared:]) for parts in split]
    return [rest if len(rest) <= _LONGEST else f"…{rest[1 - _LONGEST :]}" for rest in rests]
