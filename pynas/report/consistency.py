"""The similarity of the paths of several supernets side by side, and against how well each ranks (Pi-NAS, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pynas.errors import InputError
from pynas.rating.consistency import consistency
from pynas.report.figures import save_figure


def draw_consistency(
    stem: str | Path, similarities: Mapping[str, np.ndarray], taus: Mapping[str, float] | None = None, title: str = ""
) -> list[Path]:
    """Write `stem`.png and `stem`.svg: a matrix for each supernet, with the mean of its different paths.

    similarities: by the supernet's name, `[P, P]` from `path_similarity`. taus: by the same names, Kendall's tau of the
    supernet's ranking; with it, a panel of tau against that mean.

    Raises:
        InputError: no matrix, or a tau for another set of supernets.
    """
    if not similarities or (taus is not None and set(taus) != set(similarities)):
        raise InputError(f"[consistency] expected a tau for each of {', '.join(similarities) or 'no supernet'}, "
                         f"got {', '.join(taus or ()) or 'none'}")  # fmt: skip
    panels = len(similarities) + (taus is not None)
    figure = Figure(figsize=(2.6 * panels + 1.2, 3.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    least = min(0.0, *(float(matrix.min()) for matrix in similarities.values()))
    for plot, (name, matrix) in zip(axes, similarities.items()):
        drawn = plot.imshow(matrix, vmin=least, vmax=1, cmap="viridis")
        for (row, column), value in np.ndenumerate(matrix):
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small",
                      color="black" if value > (least + 1) / 2 else "white")  # fmt: skip
        plot.set_title(f"{name} ({consistency(matrix):.2f})", fontsize="medium")
        plot.set_xticks(range(len(matrix)), [f"path {n}" for n in range(len(matrix))], fontsize="small")
        plot.set_yticks(range(len(matrix)), [f"path {n}" for n in range(len(matrix))], fontsize="small")
    figure.colorbar(drawn, ax=list(axes[: len(similarities)]), label="cosine similarity", shrink=0.8)
    if taus is not None:
        for name, matrix in similarities.items():
            axes[-1].scatter(consistency(matrix), taus[name], s=30, color="tab:blue")
            axes[-1].annotate(name, (consistency(matrix), taus[name]), textcoords="offset points", xytext=(5, 4),
                              fontsize="small")  # fmt: skip
        axes[-1].set_xlabel("mean similarity of paths")
        axes[-1].set_ylabel("Kendall's tau of the ranking")
        axes[-1].grid(alpha=0.3)
        axes[-1].margins(0.25)
    return save_figure(figure, stem)
