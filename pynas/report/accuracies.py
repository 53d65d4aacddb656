"""Accuracy of the same architectures after different trainings, against what they cost (PreNAS, figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pynas.costs import UNITS
from pynas.errors import InputError
from pynas.report.figures import save_figure


def draw_accuracies(
    stem: str | Path,
    runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    *,
    cost: str = "params",
    title: str = "",
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: per training a line of the mean over its runs, each run's values as dots.

    runs: by the training's name, per run the architectures' costs `[N]` and accuracies `[N]` in percent, in the order of
        cost. The k-th architectures of all runs are averaged, since each seed may prefer slightly other ones.

    Raises:
        InputError: no run, or runs of different numbers of architectures.
    """
    lengths = {len(values) for some in runs.values() for pair in some for values in pair}
    if not runs or not all(runs.values()) or len(lengths) != 1:
        raise InputError(f"[accuracies] expected runs of equally many architectures, got {sorted(lengths) or 'none'}")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, some) in enumerate(runs.items()):
        costs, accuracies = (np.array([pair[part] for pair in some], np.float64) for part in (0, 1))
        label = name if len(some) == 1 else f"{name} (mean of {len(some)} seeds)"
        axes.plot(costs.mean(0), accuracies.mean(0), color=f"C{number}", label=label)
        axes.scatter(costs, accuracies, color=f"C{number}", s=10, alpha=0.4, linewidths=0)
    axes.set_title(title)
    axes.set_xlabel(UNITS.get(cost, cost))
    axes.set_ylabel("top-1 accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, stem)
