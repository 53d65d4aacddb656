"""The training loop: any method, any loader; progress, metrics, checkpoints, exact resume."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas.errors import InputError
from pynas.supernets import device_of
from pynas.train.checkpoint import LAST, check_images, restore_training
from pynas.train.keep import Keep
from pynas.train.method import Method, complete, with_last
from pynas.train.team import Team
from pynas.train.training_files import TrainingFiles

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Step:
    """Report of one step; `metrics.jsonl` holds one per line."""

    step: int  # counted from 1
    steps: int  # in the whole training
    epoch: int  # counted from 1
    losses: dict[str, float]
    learning_rate: float  # of the first parameter group
    images: int = 0  # of all processes together


def fit(
    method: Method,
    train_loader: Iterable[Batch],
    epochs: int,
    run: str | Path | None = None,
    *,
    seed: int = 0,
    accumulate: int = 1,
    checkpoint_seconds: float = 60.0,
    on_step: Callable[[Step], None] | None = None,
    spread: str = "data",
    keep_epochs: Collection[int] = (),
    keep: Keep = Keep(),  # noqa: B008 (frozen)
) -> None:
    """Train a method's supernet, resuming from `run` if it holds a checkpoint.

    The randomness of a step (paths, dropout) depends on `seed` and the step's number alone, so that a run that was killed
    and restarted ends with the same weights as an uninterrupted one (on the CPU; on CUDA up to the kernels' order of sums).
    All processes draw alike but on their GPUs, see `pynas.train.Method`.

    method: an `nn.Module` with the members of `pynas.train.Method`.
    train_loader: has a length and yields (images, labels), the same batches each time for the same epoch. If it has
        `set_epoch(epoch, start)`, the loop calls that and iteration begins at batch `start`; otherwise the loop draws and
        drops the first `start` batches. If it has a `fingerprint` of its images, a checkpoint of others is refused.
    accumulate: batches whose mean gradient makes one step of the optimizer; the last step of an epoch takes the rest.
    run: folder for checkpoints and `metrics.jsonl`; None writes nothing. A checkpoint is written after every epoch and
        every `checkpoint_seconds`, by a thread from a copy on the CPU: a step waits for the copy only, and for the write
        before, if that has not ended. Whatever ends the training, the write in flight is finished. on_step: called after
        every step.
    keep_epochs: epochs after which the weights are kept in a file of their own too, `checkpoints/epoch_N.safetensors`;
        keep: further such epochs.
    spread: how the processes of a torch.distributed process group divide the work, each given the same arguments: by
        "data" or by "blocks", see `Team`. The first process writes the files, and all processes must be able to read them.

    Raises:
        InputError: no batches, keep_epochs outside 1..epochs, or a checkpoint of another network, seed, number of epochs or
            of batches in a step, or of other images.
        FloatingPointError: a loss is not finite; the last checkpoint is kept as it was.
        OSError: files that cannot be written, raised when the next checkpoint is due or at the end.
    """
    complete(method)
    length = len(train_loader)  # type: ignore[arg-type]
    if length == 0:
        raise InputError("[fit] expected training batches, got an empty loader")
    for name, value in (("epochs", epochs), ("accumulate", accumulate)):
        if value < 1:
            raise InputError(f"[fit] expected {name} of at least 1, got {value}")
    if any(not 1 <= epoch <= epochs for epoch in keep_epochs):
        raise InputError(f"[fit] expected keep_epochs in 1..{epochs}, got {sorted(keep_epochs)}")
    files = TrainingFiles(None if run is None else Path(run), keep_epochs, keep)
    images = getattr(train_loader, "fingerprint", None)
    trainer = _Trainer(method, length, epochs, accumulate, files, seed, spread, images)
    with _own_generators(), files.background:
        trainer.start(train_loader)
        with trainer.team.at_work():
            trainer.run_epochs(trainer.team.share(train_loader), checkpoint_seconds, on_step)
    if run is not None:
        trainer.team.first_says(True, trainer.device)  # the files of the first process are whole


def epoch_batches(loader: Iterable[Batch], epoch: int, start: int = 0) -> Iterator[Batch]:
    """Batches of an epoch, from batch `start` on."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch, start)
        return iter(loader)
    return itertools.islice(iter(loader), start, None)


@contextmanager
def _own_generators() -> Iterator[None]:
    """Restore the states of the generators of torch, `random` and numpy in the end."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (layers of others draw from it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class _Trainer:
    """State of one training: the method, its optimizer, the current step, and the files."""

    def __init__(
        self,
        method: Any,
        length: int,
        epochs: int,
        accumulate: int,
        files: TrainingFiles,
        seed: int,
        spread: str,
        images: str | None,
    ):
        self.method, self.length, self.epochs, self.accumulate = method, length, epochs, accumulate
        self.files, self.seed, self.images = files, seed, images
        self.epoch_steps = math.ceil(length / accumulate)
        self.steps = self.epoch_steps * epochs
        self.step = 0
        self.optimizer = method.optimizer()
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.team = Team(method, spread)
        self.device = device_of(method)

    def start(self, loader: Iterable[Batch]) -> None:
        """Restore the checkpoint if there is one; otherwise prepare the method."""
        checkpoint = self.files.checkpoint()
        if checkpoint is not None:
            path = self.files.run / LAST  # type: ignore[operator]
            own = self.description()
            for name in ("seed", "epochs", "batches", "accumulate"):
                if checkpoint.metadata.get(name) != own[name]:
                    raise InputError(
                        f"[fit] expected a checkpoint with {name} = {own[name]}, got {checkpoint.metadata.get(name)} "
                        f"in {path}; use the same setting or another run folder"
                    )
            check_images("fit", checkpoint.metadata, self.images, path)
            restore_training(checkpoint, self.method, self.optimizer)
            self.step = int(checkpoint.metadata["step"])
            if self.method.scaler is not None:
                self.method.scaler.load_state_dict(checkpoint.metadata["scaler"])
        else:
            torch.manual_seed(self.seed)
            self.method.prepare(epoch_batches(loader, 0))
        self.team.begin()
        self.files.truncate_metrics(self.step)

    def run_epochs(self, loader: Any, checkpoint_seconds: float, on_step: Callable[[Step], None] | None) -> None:
        """Train to the end, with a checkpoint after every epoch and every `checkpoint_seconds`."""
        self.method.train()
        saved = time.monotonic()
        while self.step < self.steps and not self.method.finished():
            epoch, step = divmod(self.step, self.epoch_steps)
            # Loaders may shuffle by the global generators.
            self.draw_alike(np.random.default_rng([self.seed, epoch, 1]))
            batches = epoch_batches(loader, epoch, step * self.accumulate)
            while not self.method.finished() and (group := list(itertools.islice(batches, self.accumulate))):
                report = self.train_on(group)
                if on_step is not None:
                    on_step(report)
                if self.team.first_says(time.monotonic() - saved > checkpoint_seconds, self.device):
                    self.save()
                    saved = time.monotonic()
            if self.step != (epoch + 1) * self.epoch_steps and not self.method.finished():
                got = (self.step - epoch * self.epoch_steps) * self.accumulate
                raise InputError(f"[fit] expected {self.length} batches in epoch {epoch + 1}, got {got}")
            self.save(epoch + 1)
        self.method.eval()

    def train_on(self, batches: Sequence[Batch]) -> Step:
        """Set the learning rates, then take one optimizer step by the mean gradient of the batches."""
        progress = self.step / self.epoch_steps
        factor = self.method.rate_factor(progress, self.epochs)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates):
            group["lr"] = rate * factor
        rng = np.random.default_rng([self.seed, self.step])
        self.draw_alike(rng)
        self.method.before_step(progress, self.epochs, self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        by_batch = [self.losses(*batch, rng, last) for batch, last in with_last(batches)]
        names = dict.fromkeys(name for each in by_batch for name in each)
        losses = {name: sum(each.get(name, 0.0) for each in by_batch) / len(by_batch) for name in names}
        losses = self.team.average_losses(losses)
        self.check(losses)
        self.update(len(batches))
        self.method.after_step(self.step / self.epoch_steps, self.epochs)
        epoch = (self.step - 1) // self.epoch_steps + 1
        images = sum(len(labels) for _, labels in batches) * self.team.group_size
        report = Step(self.step, self.steps, epoch, losses, self.base_rates[0] * factor, images)
        self.files.note(report)
        return report

    def draw_alike(self, rng: np.random.Generator) -> None:
        """Seed torch, `random` and numpy alike in all processes, and a GPU's generator differently in each."""
        seed = int(rng.integers(2**62))
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed + self.team.rank)

    def losses(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, last: bool
    ) -> dict[str, float]:
        """Run forward and backward for one batch, the step's last one or not; return its losses by name."""
        if last:
            self.team.last_batch(self.optimizer)
        return {name: float(loss) for name, loss in self.method.training_step(images, labels, rng).items()}

    def check(self, losses: Mapping[str, float]) -> None:
        """Raise FloatingPointError where a loss is not finite."""
        for name, loss in losses.items():
            if not math.isfinite(loss):
                epoch = (self.step - 1) // self.epoch_steps + 1
                raise FloatingPointError(f"[fit] expected finite losses, got {loss} for {name} in step {self.step} "
                                         f"(epoch {epoch}); {self.files.kept()}")  # fmt: skip

    def update(self, batches: int) -> None:
        """Take an optimizer step by the mean of the gradients that `batches` batches have added up."""
        scaler = self.method.scaler
        self.team.average_gradients()  # before unscaling, so that all processes see the same overflows
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:  # the step's paths have no weights
            return
        if scaler is not None:
            scaler.scale(torch.zeros((), device=self.device))  # this process's losses may have had no gradient to scale
            scaler.unscale_(self.optimizer)
        if batches > 1:
            torch._foreach_div_(gradients, batches)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)  # skips the step if a gradient overflowed
            scaler.update()

    def description(self) -> dict[str, Any]:
        """Metadata of a checkpoint."""
        metadata = {"seed": self.seed, "epochs": self.epochs, "batches": self.length, "accumulate": self.accumulate,
                    "data": self.images, "step": self.step, "steps": self.steps}  # fmt: skip
        return metadata if self.method.scaler is None else {**metadata, "scaler": self.method.scaler.state_dict()}

    def save(self, epoch: int | None = None) -> None:
        """Begin a checkpoint; epoch: the one that ends here."""
        self.settle()
        if self.files.writes:
            self.files.save(self.method, self.optimizer, self.description(), epoch)

    def settle(self) -> None:
        """Gather what the processes trained; infinite gradients of finite losses must not replace good weights in a file."""
        self.team.settle(self.optimizer)
        for name, parameter in self.method.named_parameters() if self.files.run is not None else ():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise FloatingPointError(
                    f"[fit] expected finite weights, got others in {name} after step {self.step}; {self.files.kept()}"
                )
