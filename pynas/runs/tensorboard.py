"""TensorBoard logs of a training, in the run's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.train import Step


class TensorBoard:
    """Writes every step's losses and learning rate as scalars named after the training, `train supernet/block_1`.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError("[tensorboard] expected the package tensorboard, got none; pip install pynas[tensorboard]")
        self.folder = folder

    def steps(self, what: str) -> Callable[[Step], None]:
        """For the steps of one training; a resumed one takes the place of the steps that it repeats."""
        writers: list[Any] = []

        def log(step: Step) -> None:
            from torch.utils.tensorboard import SummaryWriter

            if not writers:
                writers.append(SummaryWriter(str(self.folder / what.replace(" ", "_")), purge_step=step.step))
            for name, loss in step.losses.items():
                writers[0].add_scalar(f"{what}/{name}", loss, step.step)
            writers[0].add_scalar(f"{what}/learning rate", step.learning_rate, step.step)
            if step.step == step.steps:
                writers[0].close()

        return log
