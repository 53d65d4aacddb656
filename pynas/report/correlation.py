"""Scores against published accuracies, and the predicted ranking against the true one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from pynas.report.figures import save_figure

# Up to so many architectures each is drawn; beyond, their density.
_FEW = 100
_COLOUR, _DENSITY = "tab:blue", "Blues"


def draw_ranking(
    stem: str | Path,
    scores: np.ndarray,
    accuracy: np.ndarray,
    *,
    lower_is_better: bool = True,
    title: str = "",
    score_label: str = "score",
    data_label: str = "",
) -> list[Path]:
    """Write `stem`.png and `stem`.svg of `ranking_figure`."""
    figure = ranking_figure(
        scores,
        accuracy,
        lower_is_better=lower_is_better,
        title=title,
        score_label=score_label,
        data_label=data_label,
    )
    return save_figure(figure, stem)


def ranking_figure(
    scores: np.ndarray,
    accuracy: np.ndarray,
    *,
    lower_is_better: bool = True,
    title: str = "",
    score_label: str = "score",
    data_label: str = "",
    size: tuple[float, float] = (10, 4.6),
) -> Figure:
    """Score against accuracy, and predicted rank against true rank (DNA, figure 6); one below the other where it is narrow.

    scores, accuracy: `[N]`; rank 1 is the best. Few architectures are lines from their predicted to their true rank,
    many a density of both. size: in inches.
    """
    scores, accuracy = np.asarray(scores, np.float64), np.asarray(accuracy, np.float64)
    predicted, true = rankdata(scores if lower_is_better else -scores), rankdata(-accuracy)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2) if size[0] > size[1] else figure.subplots(2, 1)
    _draw_points(left, accuracy, scores)
    left.set_xlabel(f"top-1 accuracy{data_label and f' on {data_label}'} (%)")
    left.set_ylabel(f"{score_label} ({'lower' if lower_is_better else 'higher'} is better)")
    if len(scores) <= _FEW:
        _draw_lines(right, predicted, true)
    else:
        _draw_rank_density(right, predicted, true)
    return figure


def _draw_points(axes: Axes, accuracy: np.ndarray, scores: np.ndarray) -> None:
    if len(scores) <= _FEW:
        axes.scatter(accuracy, scores, s=24, color=_COLOUR)
    else:
        # As an image in the SVG too: tens of thousands of marks would not open.
        axes.scatter(accuracy, scores, s=4, color=_COLOUR, alpha=0.15, linewidths=0, rasterized=True)
    axes.grid(alpha=0.3)


def _draw_lines(axes: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    """A line per architecture: level where the ranks agree, the steeper the darker."""
    error = np.abs(predicted - true)
    for start, end, share in zip(predicted, true, error / max(error.max(), 1)):
        axes.plot([0, 1], [start, end], color=_COLOUR, alpha=0.25 + 0.75 * share, linewidth=1.5, marker="o", ms=4)
    axes.set_xticks([0, 1], ["predicted", "true"])
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(len(true) + 0.7, 0.3)
    axes.set_ylabel("rank (1 is the best)")
    axes.set_title(f"places between predicted and true rank: {error.mean():.1f} on average", fontsize="medium")


def _draw_rank_density(axes: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    n = len(true)
    cells = axes.hexbin(
        true, predicted, gridsize=60, cmap=_DENSITY, bins="log", mincnt=1, extent=(1, n, 1, n), rasterized=True
    )
    axes.plot([1, n], [1, n], color="0.3", linewidth=1, linestyle="--", label="perfect ranking")
    axes.set_xlabel("true rank (1 is the best)")
    axes.set_ylabel("predicted rank")
    axes.set_xlim(1, n)
    axes.set_ylim(1, n)
    axes.xaxis.set_major_locator(MaxNLocator(4))  # more would run into each other
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right")
    axes.figure.colorbar(cells, ax=axes, label="architectures")
