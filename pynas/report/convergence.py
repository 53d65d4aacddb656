"""Rank correlation over the epochs of a training (BossNAS, figures 7 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pynas.report.figures import save_figure


def draw_convergence(
    stem: str | Path, epochs: Sequence[int], correlations: Mapping[str, Sequence[float]], title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: a line per correlation, `[len(epochs)]` each, against the epoch."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, values in correlations.items():
        axes.plot(epochs, values, marker="o", markersize=4, label=label)
    axes.axhline(0, color="0.4", linewidth=1)
    axes.set_xlabel("epochs of each block")
    axes.set_ylabel("correlation with the accuracies")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(title, fontsize="medium")
    return save_figure(figure, stem)
