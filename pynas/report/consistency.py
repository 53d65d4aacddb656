"""Similarity of the paths of several supernets, and how well each supernet ranks (Pi-NAS, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pynas.errors import InputError
from pynas.evaluation.consistency import consistency
from pynas.report.figures import save_figure

# Matrices in a row.
_COLUMNS = 3


def draw_consistency(
    stem: str | Path, similarities: Mapping[str, np.ndarray], taus: Mapping[str, float] | None = None, title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: the matrix of each supernet, with the mean similarity of two different paths.

    similarities: by the name of the supernet, `[P, P]` from `path_similarity`.
    taus: Kendall's tau of each supernet's ranking, by name; adds a panel of tau against the mean similarity.

    Raises:
        InputError: no matrix, or taus for other supernets than there are matrices.
    """
    if not similarities or (taus is not None and set(taus) != set(similarities)):
        raise InputError(f"[consistency] expected a tau for each of {', '.join(similarities) or 'no supernet'}, "
                         f"got {', '.join(taus or ()) or 'none'}")  # fmt: skip
    columns = min(_COLUMNS, len(similarities))
    rows = -(-len(similarities) // columns)
    sizes = [2.6 * columns + 1.2, *([4.0] if taus is not None else [])]
    figure = Figure(figsize=(sum(sizes), 2.6 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subfigures(1, len(sizes), squeeze=False, width_ratios=sizes)[0]
    _draw_matrices(panels[0], similarities, rows, columns)
    if taus is not None:
        _draw_taus(panels[1], {name: (consistency(matrix), taus[name]) for name, matrix in similarities.items()})
    return save_figure(figure, stem)


def _draw_matrices(panel: Any, similarities: Mapping[str, np.ndarray], rows: int, columns: int) -> None:
    axes = panel.subplots(rows, columns, squeeze=False).ravel()
    least = min(0.0, *(float(matrix.min()) for matrix in similarities.values()))
    for plot, (name, matrix) in zip(axes, similarities.items()):
        image = plot.imshow(matrix, vmin=least, vmax=1, cmap="viridis")
        for (row, column), value in np.ndenumerate(matrix):
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small",
                      color="black" if value > (least + 1) / 2 else "white")  # fmt: skip
        plot.set_title(f"{name} ({consistency(matrix):.2f})", fontsize="medium")
        plot.set_xticks(range(len(matrix)), [f"path {n}" for n in range(len(matrix))], fontsize="small")
        plot.set_yticks(range(len(matrix)), [f"path {n}" for n in range(len(matrix))], fontsize="small")
    for plot in axes[len(similarities) :]:
        plot.set_axis_off()
    panel.colorbar(image, ax=list(axes), label="cosine similarity", shrink=0.8)


def _draw_taus(panel: Any, points: Mapping[str, tuple[float, float]]) -> None:
    axes = panel.subplots()
    for name, (similarity, tau) in points.items():
        axes.scatter(similarity, tau, s=30, label=name)
    axes.set_xlabel("mean similarity of paths")
    axes.set_ylabel("Kendall's tau of the ranking")
    axes.grid(alpha=0.3)
    axes.margins(0.25)
    panel.legend(loc="outside lower center", ncols=2, fontsize="small")
