"""Detection of collapse: a bootstrapped network that maps all images to one vector has the least loss and is useless."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pynas.errors import CollapseWarning


@torch.no_grad()
def output_deviation(outputs: Tensor) -> float:
    """sqrt(D) times the standard deviation over a batch of L2-normalised outputs, the mean over paths and dimensions.

    outputs: [P, B, D]. 1 for evenly spread directions, 0 where all images have the same (SimSiam, section 4.1).
    """
    unit = functional.normalize(outputs.float(), dim=2)
    return float(unit.std(1, correction=0).mean()) * math.sqrt(outputs.shape[2])


class CollapseDetector:
    """Warns once when a block's outputs deviate by less than `threshold` in `patience` steps in a row."""

    def __init__(self, threshold: float = 0.05, patience: int = 10) -> None:
        self.threshold, self.patience = threshold, patience
        self._steps: dict[int, int] = {}

    def watch(self, outputs: Tensor, block: int) -> None:
        """Count a step's outputs [P, B, D] of a block, and warn where it has collapsed."""
        deviation = output_deviation(outputs)
        self._steps[block] = self._steps.get(block, 0) + 1 if deviation < self.threshold else 0
        if self._steps[block] == self.patience:
            warnings.warn(
                f"[bossnas] the outputs of block {block + 1} collapse: over a batch they deviate by {deviation:.4f} "
                f"(1 is spread evenly), for {self.patience} steps; try a smaller learning rate or a longer warm-up",
                CollapseWarning,
                stacklevel=2,
            )


def warn_constant(scores: Iterable[float], block: int, tolerance: float = 1e-6) -> None:
    """Warn where all scores of a block are equal, up to `tolerance` of their size: they cannot rank its paths."""
    values = np.array([score for score in scores if not math.isnan(score)])
    if len(values) > 1 and np.ptp(values) <= tolerance * np.abs(values).max():
        warnings.warn(
            f"[bossnas] the {len(values)} paths of block {block + 1} all rate {values[0]:.6g}: the block has collapsed "
            "and does not rank its paths",
            CollapseWarning,
            stacklevel=2,
        )
