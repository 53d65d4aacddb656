"""Pareto front of score and a cost, with the chosen architectures marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pynas.costs import cost_heading
from pynas.report.figures import save_figure


def draw_front(
    stem: str | Path,
    name: str,
    front: Sequence[tuple[float, float]],
    chosen: Sequence[tuple[float, float]] = (),
    limit: float | None = None,
) -> list[Path]:
    """Write the figure of `front_figure` to `stem`.png and `stem`.svg."""
    return save_figure(front_figure(name, front, chosen, limit), stem)


def front_figure(
    name: str,
    front: Sequence[tuple[float, float]],
    chosen: Sequence[tuple[float, float]] = (),
    limit: float | None = None,
) -> Figure:
    """Draw a Pareto front, mark the chosen architectures on it, the best one first, and the limit of the cost as a line.

    name: the cost on the x axis. front, chosen: (cost, score) of each architecture.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.step(*zip(*front), where="post", color="tab:blue", linewidth=1, zorder=1)
    costs, scores = zip(*front)
    axes.scatter(costs, scores, s=9, color="tab:blue", label=f"front ({len(front):,} architectures)", zorder=2)
    if chosen:
        _mark_chosen(axes, chosen)
    if limit is not None:
        axes.axvline(limit, color="0.4", linestyle="--", linewidth=1, label="limit")
    axes.set_xlabel(cost_heading(name))
    axes.set_ylabel("score (lower is better)")
    if name in ("params", "madds", "memory"):
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure


def _mark_chosen(axes: Axes, chosen: Sequence[tuple[float, float]]) -> None:
    costs, scores = zip(*chosen)
    axes.scatter(costs, scores, s=42, facecolors="none", edgecolors="tab:red", label="chosen", zorder=3)
    axes.annotate("best", chosen[0], textcoords="offset points", xytext=(7, 7), color="tab:red")
