"""Accuracies of a benchmark: how they are spread, and how they go with the costs (DNA, figure 12)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy.stats import kendalltau

from pynas.costs import UNITS
from pynas.report.ranking import COLOUR, DENSITY, MOST

_MOST_BINS = 60


def statistics_figure(
    accuracy: np.ndarray, costs: Mapping[str, np.ndarray], *, title: str = "", data_label: str = ""
) -> Figure:
    """Draw a histogram of the accuracies, and a panel of accuracy against each cost with Kendall's tau above it.

    Up to `pynas.report.ranking.MOST` architectures are points, more of them a density.

    accuracy: `[N]` in percent. costs: `[N]` each, by name. data_label: the data that the accuracies were measured on.
    """
    label = f"top-1 accuracy{data_label and f' on {data_label}'} (%)"
    figure = Figure(figsize=(4.2 * (1 + len(costs)), 4.2), layout="constrained")
    figure.suptitle(title)
    histogram, *panels = figure.subplots(1, 1 + len(costs))
    bins = min(len(np.histogram_bin_edges(accuracy, "auto")) - 1, _MOST_BINS)
    histogram.hist(accuracy, bins=bins, color=COLOUR, edgecolor="white", linewidth=0.5)
    histogram.set_xlabel(label)
    histogram.set_ylabel("architectures")
    histogram.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    histogram.yaxis.set_major_formatter("{x:,.0f}")
    for axes, (name, values) in zip(panels, costs.items()):
        _draw_cost(axes, np.asarray(values, np.float64), accuracy)
        axes.set_xlabel(UNITS.get(name, name))
        axes.set_ylabel(label)
    return figure


def _draw_cost(axes: Axes, cost: np.ndarray, accuracy: np.ndarray) -> None:
    if len(cost) <= MOST:
        axes.scatter(cost, accuracy, s=24, color=COLOUR)
        axes.grid(alpha=0.3)
    else:
        density = axes.hexbin(cost, accuracy, gridsize=50, cmap=DENSITY, bins="log", mincnt=1, rasterized=True)
        axes.figure.colorbar(density, ax=axes, label="architectures")
    if np.ptp(cost) and np.ptp(accuracy):
        axes.set_title(f"Kendall τ {kendalltau(cost, accuracy).statistic:.3f}", fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(5))  # the labels of more ticks would overlap
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
