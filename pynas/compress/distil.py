"""Distillation of a whole network: a smaller one learns the outputs of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.calls import Call, Pick, pick_output
from pynas.compress.stopping import EarlyStop
from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.methods.ema import frozen_copy, update_ema
from pynas.methods.schedule import warm_cosine
from pynas.rating.losses import check_logits
from pynas.rating.partial import digest
from pynas.train import Step, fit
from pynas.train.method import Method, backward, unshared_state
from pynas.train.team import check_divides

Loss = Callable[[Tensor, Tensor], Tensor]


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all positions of KL(teacher || student) between logits `[..., K]`, K > 1."""
    check_logits(teacher)
    target = teacher.log_softmax(-1)
    return (target.exp() * (target - student.log_softmax(-1))).sum(-1).mean()


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all positions of one minus the cosine of the angle between outputs `[..., D]`; 0 where the teacher's is 0."""
    return ((1 - F.cosine_similarity(student, teacher, -1)) * teacher.any(-1)).mean()


LOSSES: dict[str, Loss] = {"kl": _kl, "cosine": _cosine, "mse": F.mse_loss}


class Distillation(nn.Module, Method):
    """Training of a student on a frozen teacher's outputs, by AdamW with warm-up and a cosine.

    Dropout and other noise stay off.

    net: the student, which is trained. teacher: any module that takes the same calls. loss: "kl", "cosine", "mse", or a function
    of (student's output, teacher's output). pick: see `pynas.compress.rate`. warmup: share of the steps. ema: momentum of the
    moving average of the weights, `average`; None for no average. norm: statistics of batch norm while the student trains:
    "running", the stored ones, which stay, or "batch", which the stored ones follow. stop: keeps the best weights, and ends the
    training early; None keeps the last ones.
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        loss: str | Loss = "kl",
        *,
        pick: Pick = pick_output,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.05,
        ema: float | None = 0.99,
        norm: str = "running",
        stop: EarlyStop | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("running", "batch"):
            raise InputError(f"[compress] expected norm to be running or batch, got {norm!r}")
        if isinstance(loss, str) and loss not in LOSSES:
            raise InputError(
                f"[compress] expected a loss of {', '.join(LOSSES)} or a function to distil by, got {loss!r}"
            )
        self.net, self.teacher = net.requires_grad_(), frozen_copy(teacher).eval()
        self.average = None if ema is None else frozen_copy(net)
        self._loss, self._pick = LOSSES[loss] if isinstance(loss, str) else loss, pick
        self._learning_rate, self._weight_decay, self._warmup, self._ema = learning_rate, weight_decay, warmup, ema
        self._norm, self.stop = norm, stop

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; vectors, as biases and norms, have no weight decay."""
        parameters = list(self.net.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self._weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self._learning_rate, fused=True)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up and a cosine to 0."""
        return warm_cosine(progress, epochs, self._warmup * epochs)

    def prepare(self, batches: Iterable[Any]) -> None:
        """Check the student as it is, so that weights which are worse are not kept."""
        self._check()

    def training_step(self, images: Any, labels: Tensor, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Add the gradients of one batch; images: a batch as the model takes it; labels are not used."""
        device = next(self.net.parameters()).device
        loss = self._compared(self.net, Call.of(images, self.net).to(device))
        backward(loss, reduce=self.reduce)
        return {"distillation": loss.detach()}

    def after_step(self, progress: float, epochs: int) -> None:
        """Move the average, and check it where that is due."""
        if self._ema is not None:
            update_ema(self.average, self.net, self._ema)
        if self.stop is not None and self.stop.due(round(progress / epochs * self.stop.steps)):
            self._check()

    def finished(self) -> bool:
        """Whether the training ends early."""
        return self.stop is not None and self.stop.finished()

    def train(self, mode: bool = True) -> Distillation:
        """Let the student's batch norms follow the batches, where they should, and nothing else."""
        super().train(False)
        for part in self.net.modules():
            if isinstance(part, _BatchNorm):
                part.train(mode and self._norm == "batch")
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors of the student and of its average."""
        return unshared_state(self, "teacher.")

    def result(self) -> nn.Module:
        """Return the best weights that were found, or the last ones: of the average where there is one."""
        return (self._latest() if self.stop is None else self.stop.best).requires_grad_()

    def _latest(self) -> nn.Module:
        """Average of the student's weights, with the student's statistics; the student without an average."""
        if self.average is None:
            return self.net
        for own, other in zip(self.average.buffers(), self.net.buffers()):
            own.copy_(other)
        return self.average

    def _check(self) -> None:
        if self.stop is not None:
            self.eval()
            self.stop.check(self._latest(), self._compared)
            self.train()

    def _compared(self, net: nn.Module, call: Call) -> Tensor:
        """Loss of a network's output against the teacher's."""
        with torch.no_grad():
            target = self._pick(call(self.teacher), call)
        return self._loss(self._pick(call(net), call), target)


class Steps:
    """Loader of one epoch of so many batches, which are gone through in another order each time."""

    def __init__(self, batches: Sequence[Call], steps: int, seed: int) -> None:
        self._batches, self._steps, self._seed, self._start = batches, steps, seed, 0

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Begin at a batch."""
        self._start = start

    def share(self, own: int, size: int) -> Steps:
        """Return the loader of every `size`-th sample of each batch."""
        for batch in self._batches:
            check_divides(batch.samples, size)
        return Steps([batch.every(own, size) for batch in self._batches], self._steps, self._seed)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        none = torch.zeros(0)
        for step in range(self._start, self._steps):
            turn, at = divmod(step, len(self._batches))
            order = np.random.default_rng([self._seed, turn]).permutation(len(self._batches))
            yield self._batches[order[at]], none


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    steps: int,
    loss: str | Loss = "kl",
    *,
    run: str | Path | None = None,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
    validation: Sequence[Any] | None = None,
    patience: int | None = None,
    check_every: int = 50,
    **options: Any,
) -> nn.Module:
    """Train a smaller network on the outputs of the original for some steps, and return it; both arguments stay as they are.

    In each process of torchrun, once it has called `torch.distributed.init_process_group`, give the same arguments: process r of
    n trains on samples r, r + n, ... of every batch, the gradients are averaged, and all return what one process alone does
    (with norm="batch" each normalises its own samples).

    Models in half precision train in float32, and return to their own types.

    Args:
        student, teacher: modules that take the same calls. batches: as the models take them; labels are not used.
        loss: "kl" of logits, "cosine" or "mse" of other outputs, or a function of both outputs that returns one number, the
            mean over the samples.
        run: folder of checkpoints, from which a training that was stopped goes on (`pynas.fit`): in a folder of its own, named
            by a hash of the teacher, the student's sizes, the batches and the settings.
        validation: held-out batches. The weights (of the average) with the least loss on them are returned, the student's own
            among them. patience: checks in a row without a lower loss after which the training ends. check_every: steps between
            checks.
        options: of `Distillation`: pick, learning_rate, weight_decay, warmup, ema, norm.

    Raises:
        InputError: no batch, an unknown loss, patience without held-out batches, batches that the processes cannot share equally.
        FloatingPointError: a loss is not finite.
    """
    if not batches:
        raise InputError("[compress] expected at least one batch to distil on, got none")
    calls, held = ([Call.of(batch, student) for batch in some] for some in (batches, validation or ()))
    if run is not None:
        settings = [loss, seed, steps, patience, check_every, *sorted(options.items())]
        run = Path(run) / _fingerprint(student, teacher, [*calls, *held], settings)
    types = {name: tensor.dtype for name, tensor in _tensors(student)}
    student = copy_module(student, where="compress")
    if half := not {torch.bfloat16, torch.float16}.isdisjoint(types.values()):
        student, teacher = student.float(), copy_module(teacher, where="compress").float()
        calls, held = ([call.to(None, torch.float32) for call in some] for some in (calls, held))
    stop = None
    if validation is not None or patience is not None:
        stop = EarlyStop(student, held, steps, patience, check_every)
    method = Distillation(student, teacher, loss, stop=stop, **options)
    fit(method, Steps(calls, steps, seed), 1, run, seed=seed, on_step=on_step)
    result = method.result().eval()
    for name, tensor in _tensors(result) if half else ():
        tensor.data = tensor.data.to(types[name])
    return result


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _fingerprint(student: nn.Module, teacher: nn.Module, calls: Sequence[Call], settings: Sequence[Any]) -> str:
    """Hash of what a distillation depends on, but for the student's weights, which may differ a little when they are made again."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in _tensors(student)]
    words = [getattr(value, "__qualname__", value) for setting in settings
             for value in (setting if isinstance(setting, tuple) else [setting])]  # fmt: skip
    return digest(teacher, shapes, [call.leaves for call in calls], words)[:16]
