"""SNIP among isomers against their accuracies (PreNAS, figure 3), and error distributions of whole spaces (figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import kendalltau

# Words of what varies in a case: its totals, and the growth.
_WORDS = {"mlp": ("MLP features", "MLP ratio"), "heads": ("heads", "heads")}
_SCORES = {"snip": "SNIP without normaliser", "layer": "SNIP with layer normalisation"}


def isomers_figure(cases: Mapping[str, Mapping[str, Any]], accuracies: Mapping[str, float], title: str = "") -> Figure:
    """Draw a row for each case: SNIP and normalised SNIP against accuracy, and the growth of SNIP in each layer.

    The first two panels have the two groups of most isomers, each with Kendall's tau in the legend; scores are minus their
    group's mean, as groups lie further apart than their members.

    cases: of `pynas.runs.isomers`, by "mlp" or "heads": `groups`, `scores` and `growth`. accuracies: in [0, 1], by architecture.
    """
    figure = Figure(figsize=(13, 4.2 * len(cases)), layout="constrained")
    figure.suptitle(title)
    for (vary, case), panels in zip(cases.items(), figure.subplots(len(cases), 3, squeeze=False)):
        groups = sorted(case["groups"], key=lambda group: -group["subnets"])[:2]
        for axes, (name, label) in zip(panels, _SCORES.items()):
            for group in groups:
                _draw_group(axes, group["total"], name, case["scores"], accuracies, _WORDS[vary][0])
            axes.set_xlabel(f"{label}, minus its group's mean")
            axes.set_ylabel("accuracy on the validation images (%)")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), fontsize="small", frameon=False)
        _draw_growth(panels[2], case["growth"], _WORDS[vary][1])
        for axes in panels:
            axes.grid(alpha=0.3)
    return figure


def _draw_group(
    axes: Axes, total: int, name: str, scores: Mapping[str, Any], accuracies: Mapping[str, float], unit: str
) -> None:
    inside = {architecture: each[name] for architecture, each in scores.items() if each["total"] == total}
    accuracy = np.array([100 * accuracies[architecture] for architecture in inside])
    values = np.array(list(inside.values()))
    tau = f"{kendalltau(values, accuracy).statistic:.2f}" if np.ptp(values) and np.ptp(accuracy) else "undefined"
    label = f"{total:,} {unit}, {len(inside):,} subnets: Kendall τ {tau}"
    axes.scatter(
        values - values.mean(), accuracy, s=14, alpha=0.6, linewidths=0, label=label, rasterized=len(inside) > 500
    )


def _draw_growth(axes: Axes, growth: Sequence[float], word: str) -> None:
    axes.bar(range(1, len(growth) + 1), growth, color="tab:gray")
    axes.set_xlabel("layer")
    axes.set_ylabel(f"growth of SNIP, least to most {word}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_axisbelow(True)


def distributions_figure(errors: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draw the cumulative share of networks with an error up to each value, a line per space.

    errors: `[N]` in percent, by the space's label.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for label, values in errors.items():
        axes.ecdf(values, label=f"{label}; mean {np.mean(values):.2f} %")
    axes.set_xlabel("error on the validation images (%)")
    axes.set_ylabel("cumulative share of networks")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    return figure
