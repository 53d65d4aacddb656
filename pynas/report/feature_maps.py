"""Feature maps of the teacher and of the student's blocks, one above the other (DNA, figure 10)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def feature_maps_figure(blocks: Sequence[int], teacher: Sequence[np.ndarray], student: Sequence[np.ndarray]) -> Figure:
    """Draw the teacher's maps of each block in a row, and below them the student's of the same channels.

    A channel's two maps share a scale of grey, from the least to the greatest value of the teacher's.

    blocks: numbers, counted from 1 as in names of files; the figure counts from 0. teacher, student: maps
        `[n, H, W]` of each block, of equal channels.
    """
    columns = max(map(len, teacher))
    figure = Figure(figsize=(0.9 * columns + 1.1, 1.9 * len(blocks)), layout="constrained")
    axes = figure.subplots(2 * len(blocks), columns, squeeze=False)
    for row, (number, theirs, ours) in enumerate(zip(blocks, teacher, student)):
        for offset, (who, maps) in enumerate((("teacher", theirs), ("student", ours))):
            for column, panel in enumerate(axes[2 * row + offset]):
                panel.set_xticks([])
                panel.set_yticks([])
                if column >= len(maps):
                    panel.set_axis_off()
                    continue
                limits = float(theirs[column].min()), float(theirs[column].max())
                panel.imshow(maps[column], cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
            axes[2 * row + offset][0].set_ylabel(f"block {number - 1}\n{who}", fontsize="small")
    return figure
