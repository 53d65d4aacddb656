"""Distribution of the scores of a block's paths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pynas.rating import ScoreTable
from pynas.report.figures import SMALL
from pynas.spaces import Choice


def score_figure(tables: Sequence[ScoreTable], chosen: Choice | None = None) -> Figure:
    """Draw a histogram of one block's scores, stacked by cell, with the chosen path as a line."""
    figure = Figure(figsize=(SMALL[0], 2.4), layout="constrained")
    axes = figure.add_subplot()
    scores = [table.rated()[1] for table in tables]
    all_scores = np.concatenate(scores)
    # Equal scores of all paths give one bin.
    bins = min(40, max(1, len(np.unique(all_scores))))
    labels = [f"cell {c} ({len(cell):,})" for c, cell in enumerate(scores)]
    axes.hist(scores, bins=bins, stacked=True, label=labels if len(tables) > 1 else None)
    if chosen is not None:
        score = tables[chosen.cell][chosen.path]
        better = int((all_scores < score).sum())
        axes.axvline(score, color="tab:red", linewidth=1.2, label=f"chosen, {better:,} better")
    axes.set_xlabel("score (lower is better)")
    axes.set_ylabel("paths")
    axes.xaxis.set_major_locator(MaxNLocator(5))  # the labels of more ticks would overlap
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(tables) > 1 or chosen is not None:
        axes.legend(loc="upper right")
    return figure
