"""A search after each of several epochs of a training (DNA, figure 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_LOSS, _TAU = "tab:blue", "tab:orange"


def stability_figure(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Draw the training loss and the agreement with the last scores over the epochs, and accuracies where they are known.

    rows: of `pynas.runs.stability`: `epoch`, `loss`, `tau_to_last`, and `accuracy` of the network found (%) or None.
    """
    known = [row for row in rows if row["accuracy"] is not None]
    figure = Figure(figsize=(10 if known else 6, 4), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    left, *right = figure.subplots(1, 2, squeeze=False)[0] if known else [figure.add_subplot()]
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], marker="o", color=_LOSS)
    left.set_ylabel("training loss, sum over the blocks", color=_LOSS)
    beside = left.twinx()
    beside.plot(epochs, [row["tau_to_last"] for row in rows], marker="s", color=_TAU)
    beside.set_ylabel("Kendall τ to the last scores", color=_TAU)
    beside.set_ylim(top=1.02)
    for axes in right:
        axes.plot([row["epoch"] for row in known], [row["accuracy"] for row in known], marker="o", color="tab:green")
        axes.set_ylabel("accuracy of the network found (%)")
    for axes in (left, *right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure
