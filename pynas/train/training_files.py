"""Files of a training in a run's folder: checkpoints, kept weights and metrics; a thread writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pynas.tensor_files import TensorFile, read_tensors, write_tensors
from pynas.train.background import Background
from pynas.train.checkpoint import CHECKPOINT, LAST, epoch_file, training_tensors
from pynas.train.keep import Keep
from pynas.train.team import is_first_process


class TrainingFiles:
    """Files that the first process of a training writes, in the context of `background`, and that all processes read.

    run: the folder; None writes nothing. keep_epochs, keep: as of `pynas.fit`.
    """

    def __init__(self, run: Path | None, keep_epochs: Collection[int], keep: Keep) -> None:
        self.run, self._keep_epochs, self._keep = run, keep_epochs, keep
        self.background = Background()
        self._steps: list[Any] = []

    @property
    def writes(self) -> bool:
        """Whether this process writes."""
        return self.run is not None and is_first_process()

    def checkpoint(self) -> TensorFile | None:
        """Read the last checkpoint; None where there is none."""
        if self.run is None or not (self.run / LAST).exists():
            return None
        return read_tensors(self.run / LAST, CHECKPOINT)

    def kept(self) -> str:
        """Name the last good checkpoint, for an error message."""
        self.background.wait()
        if self.run is None or not (self.run / LAST).exists():
            return "there is no checkpoint yet"
        return f"the checkpoint before it is kept: {self.run / LAST}"

    def note(self, step: Any) -> None:
        """Add a step to those that the next checkpoint writes to metrics.jsonl."""
        if self.writes:
            self._steps.append(step)

    def save(
        self, method: Any, optimizer: torch.optim.Optimizer, metadata: Mapping[str, Any], epoch: int | None = None
    ) -> None:
        """Copy the state of a training to the CPU and begin to write it, after the write before has ended.

        epoch: the one that ends here, whose weights are kept too where the policy says so; None within one.

        Raises:
            OSError: the write before failed.
        """
        self.background.wait()
        tensors, steps = training_tensors(method, optimizer), self._steps
        self._steps = []
        self.background.begin(lambda: self._write(tensors, steps, metadata, epoch))

    def _write(self, tensors: dict[str, torch.Tensor], steps: list[Any], metadata: Any, epoch: int | None) -> None:
        """Write the metrics, the kept weights, then the checkpoint, without which a resumed run drops the former."""
        assert self.run is not None
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(asdict(step))}\n" for step in steps)
            file.flush()
            os.fsync(file.fileno())
        if epoch is not None and (epoch in self._keep_epochs or self._keep.keeps(epoch)):
            weights = {name: value for name, value in tensors.items() if name.startswith("model.")}
            write_tensors(self.run / epoch_file(epoch), CHECKPOINT, weights, **metadata)
        write_tensors(self.run / LAST, CHECKPOINT, tensors, **metadata)
        for dropped in self._keep.dropped(epoch or 0):
            if dropped not in self._keep_epochs:
                (self.run / epoch_file(dropped)).unlink(missing_ok=True)

    def truncate_metrics(self, step: int) -> None:
        """Drop the metrics of later steps, and a half-written last line."""
        if not self.writes or not (path := self.run / "metrics.jsonl").exists():  # type: ignore[operator]
            return
        keep = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                        break
                except (ValueError, KeyError, TypeError):
                    break
                keep += len(line)
        os.truncate(path, keep)
