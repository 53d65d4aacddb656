"""Rankings by scores against rankings by accuracies: one predictor, several side by side, and one over its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import kendalltau, rankdata

from pynas.errors import InputError
from pynas.report.figures import save_figure

# Lines of more architectures would cover each other; more of them are drawn as a density.
MOST = 100
_PER_ROW = 4
COLOUR, DENSITY = "tab:blue", "Blues"


def draw_ranking(stem: str | Path, scores: np.ndarray, accuracy: np.ndarray, **options: Any) -> list[Path]:
    """Write the figure of `ranking_figure`, which has these options, to `stem`.png and `stem`.svg."""
    return save_figure(ranking_figure(scores, accuracy, **options), stem)


def ranking_figure(
    scores: np.ndarray,
    accuracy: np.ndarray,
    *,
    lower_is_better: bool = True,
    title: str = "",
    score_label: str = "score",
    data_label: str = "",
) -> Figure:
    """Draw scores against accuracies, and predicted against true ranks (DNA, figure 6).

    Up to `MOST` architectures are lines from their predicted to their true rank; more of them are a density. Rank 1 is the
    best.

    scores, accuracy: `[N]`. data_label: the data that the accuracies were measured on.
    """
    scores, accuracy = np.asarray(scores, np.float64), np.asarray(accuracy, np.float64)
    predicted, true = rankdata(scores if lower_is_better else -scores), rankdata(-accuracy)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _draw_points(left, accuracy, scores)
    left.set_xlabel(f"top-1 accuracy{data_label and f' on {data_label}'} (%)")
    left.set_ylabel(f"{score_label} ({'lower' if lower_is_better else 'higher'} is better)")
    if len(scores) <= MOST:
        _draw_lines(right, predicted, true)
    else:
        _draw_rank_density(right, predicted, true)
    return figure


def _draw_points(axes: Axes, accuracy: np.ndarray, scores: np.ndarray) -> None:
    if len(scores) <= MOST:
        axes.scatter(accuracy, scores, s=24, color=COLOUR)
    else:
        # Rasterised in the SVG too: viewers cannot open tens of thousands of marks.
        axes.scatter(accuracy, scores, s=4, color=COLOUR, alpha=0.15, linewidths=0, rasterized=True)
    axes.grid(alpha=0.3)


def _draw_lines(axes: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    """Draw a line per architecture from its predicted to its true rank, the darker the more they differ."""
    error = np.abs(predicted - true)
    for start, end, share in zip(predicted, true, error / max(error.max(), 1)):
        axes.plot([0, 1], [start, end], color=COLOUR, alpha=0.25 + 0.75 * share, linewidth=1.5, marker="o", ms=4)
    axes.set_xticks([0, 1], ["predicted", "true"])
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(len(true) + 0.7, 0.3)
    axes.set_ylabel("rank (1 is the best)")
    axes.set_title(f"places between predicted and true rank: {error.mean():.1f} on average", fontsize="medium")


def _draw_rank_density(axes: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    n = len(true)
    density = axes.hexbin(
        true, predicted, gridsize=60, cmap=DENSITY, bins="log", mincnt=1, extent=(1, n, 1, n), rasterized=True
    )
    axes.plot([1, n], [1, n], color="0.3", linewidth=1, linestyle="--", label="perfect ranking")
    axes.set_xlabel("true rank (1 is the best)")
    axes.set_ylabel("predicted rank")
    axes.set_xlim(1, n)
    axes.set_ylim(1, n)
    axes.xaxis.set_major_locator(MaxNLocator(4))  # the labels of more ticks would overlap
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right")
    axes.figure.colorbar(density, ax=axes, label="architectures")


def draw_rankings(
    stem: str | Path, predictors: Mapping[str, np.ndarray], accuracy: np.ndarray, *, title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: a panel per predictor, with a line per architecture from predicted to true rank.

    Both ranks are among the architectures that the predictor has a value for; rank 1 is the best. Lines are coloured by
    the true rank and cross where two architectures are in the wrong order.

    predictors: values `[N]` by label, lower is better, NaN for architectures without a value. accuracy: `[N]`.

    Raises:
        InputError: no predictor, fewer than two values for one, or more than `MOST` architectures.
    """
    accuracy = np.asarray(accuracy, np.float64)
    if not predictors or len(accuracy) > MOST:
        raise InputError(f"[rankings] expected one or more predictors of at most {MOST} architectures, "
                         f"got {len(predictors)} of {len(accuracy):,}")  # fmt: skip
    columns = min(len(predictors), _PER_ROW)
    rows = -(-len(predictors) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 4.2 * rows + (0.4 if title else 0)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (label, values) in zip(panels, predictors.items()):
        _draw_predictor(axes, label, np.asarray(values, np.float64), accuracy)
    for axes in panels[len(predictors) :]:
        axes.set_axis_off()
    return save_figure(figure, stem)


def _draw_predictor(axes: Axes, label: str, values: np.ndarray, accuracy: np.ndarray) -> None:
    has_value = ~np.isnan(values)
    values, accuracy = values[has_value], accuracy[has_value]
    if len(values) < 2:
        raise InputError(f"[rankings] expected at least two architectures with a value of {label!r}, got {len(values)}")
    predicted, true = rankdata(values), rankdata(-accuracy)
    colours = colormaps["viridis"](0.92 * ((true - 1) / (len(true) - 1)))
    for start, end, colour in zip(predicted, true, colours):
        axes.plot([0, 1], [start, end], color=colour, linewidth=1.4, marker="o", ms=3.5)
    axes.set_title(f"{label}\nKendall τ {kendalltau(-values, accuracy).statistic:.3f}", fontsize="medium")
    axes.set_xticks([0, 1], ["predicted", "true"])
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(len(true) + 0.7, 0.3)
    axes.set_yticks([1, *range(5, len(true) + 1, 5)])
    axes.set_ylabel("rank (1 is the best)" if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def draw_convergence(
    stem: str | Path, epochs: Sequence[int], correlations: Mapping[str, Sequence[float]], title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: rank correlations over the epochs of a training (BossNAS, figures 7 and 9).

    correlations: by label, `[len(epochs)]`.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, values in correlations.items():
        axes.plot(epochs, values, marker="o", markersize=4, label=label)
    axes.axhline(0, color="0.4", linewidth=1)
    axes.set_xlabel("epochs of each block")
    axes.set_ylabel("correlation with the accuracies")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(title, fontsize="medium")
    return save_figure(figure, stem)
