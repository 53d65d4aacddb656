"""Measured latency beside MAdds, of whole networks and of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pynas.report.figures import save_figure


def draw_latency(stem: str | Path, about: Mapping[str, Any]) -> list[Path]:
    """Write the figure of `latency_figure` to `stem`.png and `stem`.svg."""
    return save_figure(latency_figure(about), stem)


def latency_figure(about: Mapping[str, Any]) -> Figure:
    """Draw MAdds and latency of the whole networks that were measured, with the table's prediction of each, and of candidates.

    about: what a latency table tells of itself, see `pynas.runs.latency.measure_latency`.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    networks, candidates = about.get("networks", []), about["candidates"]
    axes = figure.subplots(1, 2 if networks else 1, squeeze=False)[0]
    if networks:
        madds = [row["madds"] for row in networks]
        axes[0].scatter(madds, [row["measured"] for row in networks], s=22, color="tab:blue", label="measured")
        axes[0].scatter(madds, [row["corrected"] for row in networks], s=30, facecolors="none", edgecolors="tab:orange",
                        label="by the table")  # fmt: skip
        axes[0].set_title(
            f"{len(networks)} networks; MAdds and latency: tau {about['tau_madds']:.2f}", fontsize="medium"
        )
        axes[0].legend()
    inner = [row for row in candidates if not isinstance(row["place"][0], str) and row["madds"]]
    blocks = [row["place"][0] for row in inner]
    drawn = axes[-1].scatter([row["madds"] for row in inner], [row["ms"] for row in inner], s=16, c=blocks,
                             cmap="viridis")  # fmt: skip
    axes[-1].set_title(f"{len(inner)} candidates", fontsize="medium")
    figure.colorbar(drawn, ax=axes[-1], label="block", ticks=sorted(set(blocks)))
    for axis in axes:
        axis.set(xlabel="MAdds", ylabel="latency (ms)")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure
