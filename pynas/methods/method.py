"""What the training loop asks of a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch

from pynas.supernets import Supernet


class Method(Protocol):
    """A method is an nn.Module with these members; `pynas.fit` needs nothing else.

    Randomness comes from `rng` alone (and torch's generator, which the loop seeds per step), so that a step depends on
    the weights, the batch and the step's number, and a resumed run repeats the one that was killed. What training
    changes is in the state dict.

    Optional: `before_step(progress, epochs, optimizer)`, called before every step of the optimiser, where the stages of
    a training may begin; `after_step(progress, epochs)`, called after it, where averages of weights move; and `scaler`, a
    `torch.amp.GradScaler` through which `training_step` scales the losses that it runs backward.
    """

    net: Supernet

    def prepare(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Called once before the first step of a fresh run, with training batches."""

    def optimizer(self) -> torch.optim.Optimizer:
        """An optimiser over all that is trained, its groups at their starting learning rates."""

    def rate_factor(self, progress: float, epochs: int) -> float:
        """What the starting learning rates are multiplied by, `progress` epochs into `epochs`."""

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> Mapping[str, torch.Tensor]:
        """Run forward and backward for one batch; return the detached losses by name.

        Gradients add up: `fit(..., accumulate=N)` calls this for N batches before a step of the optimiser.
        """
