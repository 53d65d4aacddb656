"""Feature maps of a found network's blocks beside the teacher's (DNA, figure 10)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas.files import atomic
from pynas.methods import DNA
from pynas.report.feature_maps import feature_maps_figure
from pynas.report.figures import save_figure
from pynas.runs.run import Run
from pynas.spaces import Architecture
from pynas.supernets.modes import batch_statistics

FILE = "feature_maps.npz"
# Channels of a block that are drawn: those in which the teacher's map varies most.
_CHANNELS = 8


@torch.no_grad()
def draw_feature_maps(run: Run, method: DNA, architecture: Architecture) -> list[Path]:
    """Write the maps of the first validation image after every block: feature_maps.npz, .png and .svg.

    Each block of the student gets the teacher's features before it, as in the training.
    """
    batches = list(itertools.islice(run.loader("val"), 1))
    content: dict[str, np.ndarray] = {}
    for b, choice in enumerate(architecture):
        width = method.widths[b][choice.cell]
        ((x, target),) = method.block_batches(batches, b, width=width)
        with batch_statistics(method.net):
            output = method.full_width.exits[b](method.net.run_path(b, choice, x))
        theirs, ours = target[0, : output.shape[1]].float().cpu(), output[0].float().cpu()
        shown = theirs.flatten(1).var(1).topk(min(_CHANNELS, len(theirs))).indices
        content |= {f"teacher_{b + 1}": theirs[shown].numpy(), f"student_{b + 1}": ours[shown].numpy()}
    with atomic(run.folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **content)  # type: ignore[arg-type]
    return save_figure(feature_maps_figure(*read_feature_maps(run.folder / FILE)), run.folder / "feature_maps")


def read_feature_maps(path: Path) -> tuple[list[int], list[Any], list[Any]]:
    """Return the numbers of the blocks, and the teacher's and the student's maps of each."""
    with np.load(path, allow_pickle=False) as content:
        blocks = sorted(int(name.rpartition("_")[2]) for name in content.files if name.startswith("teacher_"))
        return blocks, *([content[f"{who}_{b}"] for b in blocks] for who in ("teacher", "student"))  # type: ignore[return-value]
