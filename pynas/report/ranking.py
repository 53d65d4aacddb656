"""The predicted ranking against the true one, several predictors side by side (DNA family, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kendalltau, rankdata

from pynas.errors import InputError
from pynas.report.figures import save_figure

FORMATS = ("png", "svg")
# Beyond so many architectures lines would cover each other.
MOST = 100
_PER_ROW = 4


def draw_rankings(
    stem: str | Path, predictors: Mapping[str, np.ndarray], accuracy: np.ndarray, *, title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: for each predictor a line per architecture from its predicted to its true rank.

    predictors: values `[N]` by label, lower is better, NaN where an architecture has none. accuracy: `[N]`. Rank 1 is
    the best of those that the predictor has; crossing lines are pairs in the wrong order, coloured by the true rank.

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
        _draw(axes, label, np.asarray(values, np.float64), accuracy)
    for axes in panels[len(predictors) :]:
        axes.set_axis_off()
    return save_figure(figure, stem)


def _draw(axes: Axes, label: str, values: np.ndarray, accuracy: np.ndarray) -> None:
    known = ~np.isnan(values)
    values, accuracy = values[known], accuracy[known]
    if len(values) < 2:
        raise InputError(f"[rankings] expected at least two architectures with a value of {label!r}, got {len(values)}")
    predicted, true = rankdata(values), rankdata(-accuracy)
    colours = _colours((true - 1) / (len(true) - 1))
    for start, end, colour in zip(predicted, true, colours):
        axes.plot([0, 1], [start, end], color=colour, linewidth=1.4, marker="o", ms=3.5)
    axes.set_title(f"{label}\nKendall τ {kendalltau(-values, accuracy).statistic:.3f}", fontsize="medium")
    axes.set_xticks([0, 1], ["predicted", "true"])
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(len(true) + 0.7, 0.3)
    axes.set_yticks([1, *range(5, len(true) + 1, 5)])
    axes.set_ylabel("rank (1 is the best)" if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _colours(shares: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps["viridis"](0.92 * shares)
