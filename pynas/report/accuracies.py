"""Accuracies of architectures after different trainings against their cost (PreNAS, figures 4 and 5)."""

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
    """Write `stem`.png and `stem`.svg: for each training a line of means over its runs, and each run's values as dots.

    runs: by the name of the training, (costs `[N]`, accuracies `[N]` in percent) of each run, in the order of cost. The
        k-th architectures of all runs are averaged, since each seed may find slightly different architectures.
    cost: name of the cost, for the axis.

    Raises:
        InputError: no run, or runs of different numbers of architectures.
    """
    lengths = {len(values) for pairs in runs.values() for pair in pairs for values in pair}
    if not runs or not all(runs.values()) or len(lengths) != 1:
        raise InputError(f"[accuracies] expected runs of equally many architectures, got {sorted(lengths) or 'none'}")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, pairs) in enumerate(runs.items()):
        costs, accuracies = (np.array(values, np.float64) for values in zip(*pairs))
        label = name if len(pairs) == 1 else f"{name} (mean of {len(pairs)} seeds)"
        axes.plot(costs.mean(0), accuracies.mean(0), color=f"C{number}", label=label)
        axes.scatter(costs, accuracies, color=f"C{number}", s=10, alpha=0.4, linewidths=0)
    axes.set_title(title)
    axes.set_xlabel(UNITS.get(cost, cost))
    axes.set_ylabel("top-1 accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return save_figure(figure, stem)
