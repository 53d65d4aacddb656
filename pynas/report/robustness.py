"""Scores of several runs compared with those of a reference run (DNA, figure 9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from pynas.tabular.bootstrap import standardised

# Number of architectures drawn, evenly spread over the ranking of the reference.
_DRAWN = 60


def robustness_figure(names: Sequence[str], totals: np.ndarray, tau: Sequence[Sequence[float]]) -> Figure:
    """Draw standardised total scores against the rank in the reference run, and Kendall's tau of every two runs.

    names: of the runs, the reference first. totals: total scores `[runs, architectures]`. tau: `[runs, runs]`.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rank = rankdata(totals[0], method="ordinal")
    shown = np.argsort(rank)[np.linspace(0, len(rank) - 1, min(_DRAWN, len(rank))).astype(int)]
    for name, scores in zip(names, totals):
        standard = standardised(scores)
        left.plot(rank[shown], standard[shown], ".", markersize=5, label=name)
    left.set_xlabel(f"rank by {names[0]}, of {len(rank):,} architectures")
    left.set_ylabel("standardised score (lower is better)")
    left.grid(alpha=0.3)
    left.legend(loc="upper left", fontsize=8)
    image = right.imshow(np.asarray(tau, dtype=float), vmin=0, vmax=1, cmap="Blues")
    for (i, j), value in np.ndenumerate(np.asarray(tau, dtype=float)):
        right.text(
            j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black", fontsize=8
        )
    right.set_xticks(range(len(names)), names, rotation=30, ha="right")
    right.set_yticks(range(len(names)), names)
    right.set_title("Kendall's tau of total scores", fontsize=10)
    figure.colorbar(image, ax=right, shrink=0.8)
    return figure
