"""Best score so far against the number of architectures rated, for searches by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pynas.errors import InputError
from pynas.report.figures import save_figure


def draw_progress(
    stem: str | Path,
    runs: Mapping[str, Sequence[np.ndarray]],
    *,
    optimum: float | None = None,
    title: str = "",
    score_label: str = "best score so far",
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: for each search the median over its runs, and the range from the best to the worst.

    runs: by the name of the search, a curve `[N]` per seed (`History.best_so_far`).
    optimum: the best possible score, drawn as a line.

    Raises:
        InputError: no curve, or an empty one.
    """
    if not runs or any(not curves or min(map(len, curves)) == 0 for curves in runs.values()):
        got = {name: [len(curve) for curve in curves] for name, curves in runs.items()}
        raise InputError(f"[progress] expected at least one rating in each run of each search, got {got}")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, curves) in enumerate(runs.items()):
        _draw(axes, name, curves, f"C{number}")
    _leave_out_the_start(axes, runs, [] if optimum is None else [optimum])
    if optimum is not None:
        axes.axhline(optimum, color="0.4", linestyle="--", linewidth=1, label="optimum")
    axes.set_title(title)
    axes.set_xlabel("architectures rated")
    axes.set_ylabel(f"{score_label} (lower is better)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return save_figure(figure, stem)


def _draw(axes: Axes, name: str, curves: Sequence[np.ndarray], colour: str) -> None:
    length = min(map(len, curves))  # up to which all runs have a value
    values = np.stack([np.asarray(curve, np.float64)[:length] for curve in curves])
    ratings = np.arange(1, length + 1)
    label = name if len(curves) == 1 else f"{name} (median of {len(curves)} runs)"
    axes.step(ratings, np.median(values, axis=0), where="post", color=colour, label=label)
    if len(curves) > 1:
        axes.fill_between(ratings, values.min(0), values.max(0), step="post", color=colour, alpha=0.2, linewidth=0)


def _leave_out_the_start(axes: Axes, runs: Mapping[str, Sequence[np.ndarray]], shown: Sequence[float] = ()) -> None:
    """End the y axis at the worst score after a twentieth of the ratings, since the first scores are far above the rest."""
    curves = [np.asarray(curve) for seeds in runs.values() for curve in seeds]
    late = [curve[min(len(curve) // 20, len(curve) - 1)] for curve in curves]
    top, bottom = max([*late, *shown]), min([*(curve.min() for curve in curves), *shown])
    if top > bottom:
        axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
