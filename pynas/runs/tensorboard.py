"""TensorBoard logs of a run's trainings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.train import Step


class TensorBoard:
    """Writes losses and learning rate of every step as scalars named after the training, `train supernet/block_1`.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError("[tensorboard] expected the package tensorboard, got none; "
                             'run pip install ".[tensorboard]"')  # fmt: skip
        self.folder = folder

    def log(self, name: str) -> Callable[[Step], None]:
        """Return the log of one training; the steps that a resumed training repeats are replaced."""
        writers: list[Any] = []

        def write(step: Step) -> None:
            from torch.utils.tensorboard import SummaryWriter

            if not writers:
                writers.append(SummaryWriter(str(self.folder / name.replace(" ", "_")), purge_step=step.step))
            for loss_name, loss in step.losses.items():
                writers[0].add_scalar(f"{name}/{loss_name}", loss, step.step)
            writers[0].add_scalar(f"{name}/learning rate", step.learning_rate, step.step)
            if step.step == step.steps:
                writers[0].close()

        return write
