"""Distillation of a whole network: a smaller one learns the outputs of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.calls import Call, Pick, pick_output
from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.methods.ema import frozen_copy, update_ema
from pynas.methods.schedule import warm_cosine
from pynas.train import Step, fit
from pynas.train.method import Method, backward, unshared_state

Loss = Callable[[Tensor, Tensor], Tensor]


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all positions of KL(teacher || student) between logits `[..., K]`."""
    target = teacher.log_softmax(-1)
    return (target.exp() * (target - student.log_softmax(-1))).sum(-1).mean()


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all positions of one minus the cosine of the angle between outputs `[..., D]`."""
    return 1 - F.cosine_similarity(student, teacher, -1).mean()


LOSSES: dict[str, Loss] = {"kl": _kl, "cosine": _cosine, "mse": F.mse_loss}


class Distillation(nn.Module, Method):
    """Training of a student on a frozen teacher's outputs, by AdamW with warm-up and a cosine.

    Dropout and other noise stay off.

    net: the student, which is trained. teacher: any module that takes the same calls. loss: "kl", "cosine", "mse", or a function
    of (student's output, teacher's output). pick: see `pynas.compress.rate`. warmup: share of the steps. ema: momentum of the
    moving average of the weights, `average`; None for no average. norm: statistics of batch norm while the student trains:
    "running", the stored ones, which stay, or "batch", which the stored ones follow.
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
        self._norm = norm

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; vectors, as biases and norms, have no weight decay."""
        parameters = list(self.net.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self._weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self._learning_rate)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up and a cosine to 0."""
        return warm_cosine(progress, epochs, self._warmup * epochs)

    def training_step(self, images: Any, labels: Tensor, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Add the gradients of one batch; images: a batch as the model takes it; labels are not used."""
        device = next(self.net.parameters()).device
        call = Call.of(images, self.net).to(device)
        with torch.no_grad():
            target = self._pick(call(self.teacher), call)
        loss = self._loss(self._pick(call(self.net), call), target)
        backward(loss)
        return {"distillation": loss.detach()}

    def after_step(self, progress: float, epochs: int) -> None:
        """Move the average."""
        if self._ema is not None:
            update_ema(self.average, self.net, self._ema)

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
        """Return the average of the student's weights, with the student's statistics; the student without an average."""
        if self.average is None:
            return self.net
        averaged = self.average
        for own, other in zip(averaged.buffers(), self.net.buffers()):
            own.copy_(other)
        return averaged.requires_grad_()


class Steps:
    """Loader of one epoch of so many batches, which are gone through in another order each time."""

    def __init__(self, batches: Sequence[Any], steps: int, seed: int) -> None:
        self._batches, self._steps, self._seed, self._start = batches, steps, seed, 0

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Begin at a batch."""
        self._start = start

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
    **options: Any,
) -> nn.Module:
    """Train a smaller network on the outputs of the original for some steps, and return it; both arguments stay as they are.

    Args:
        student, teacher: modules that take the same calls. batches: as the models take them; labels are not used.
        loss: "kl" of logits, "cosine" or "mse" of other outputs, or a function of both outputs that returns one number.
        run: folder of checkpoints, from which a training that was stopped goes on (`pynas.fit`).
        options: of `Distillation`: pick, learning_rate, weight_decay, warmup, ema, norm.

    Raises:
        InputError: no batch, an unknown loss.
        FloatingPointError: a loss is not finite.
    """
    if not batches:
        raise InputError("[compress] expected at least one batch to distil on, got none")
    method = Distillation(copy_module(student, where="compress"), teacher, loss, **options)
    fit(method, Steps(batches, steps, seed), 1, run, seed=seed, on_step=on_step)
    return method.result().eval()
