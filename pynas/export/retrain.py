"""Train a network by a recipe: optimiser, schedule, EMA and mixup by timm, loop and exact resume by `pynas.fit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.copies import copy_module
from pynas.data import ImageData
from pynas.data.loaders import seeded
from pynas.errors import InputError
from pynas.export.distilled import class_logits, distilled_logits, is_distilled
from pynas.export.recipes import Recipe, training_loader
from pynas.export.regularise import regularise
from pynas.supernets import device_of
from pynas.teachers import Teacher
from pynas.teachers.teacher import classes_of
from pynas.train import Keep, Method, Step, fit
from pynas.train.method import backward, unshared_state

KINDS = ("soft", "hard", "token")


class Retraining(nn.Module, Method):
    """The method of training one network by a recipe, for `pynas.fit`.

    Loss: (1 - distill) CE(targets, f(x)) + distill D. D is KL(teacher || student) at the temperature, times the
    temperature's square ("soft"), or the cross-entropy with the teacher's class ("hard": DeiT, eq. 3); with "token" that of a
    second classifier, which a vision transformer gets (`add_distillation`). Mixup and CutMix mix images and targets; targets
    are smoothed.

    Stochastic depth and dropout are put into the network, see `regularise`; closing `regularised` takes them out.

    batches: number of batches per epoch. kind: "soft", "hard" or "token". amp: run the network in bfloat16 autocast.
    sync_batch_norm: as of `pynas.train.Method`.

    Raises:
        InputError: a network without weights, an unknown kind, "token" without a teacher or for a network without a second
            classifier, a weight `distill` outside [0, 1], an odd batch size with mixup; in training, a teacher of another
            number of classes.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        num_classes: int,
        batch_size: int,
        batches: int,
        teacher: Teacher | None = None,
        distill: float = 0.5,
        kind: str = "soft",
        temperature: float = 1.0,
        amp: bool = False,
        sync_batch_norm: bool = False,
    ):
        super().__init__()
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("[retrain] expected a network with weights to train, got none")
        if kind not in KINDS:
            raise InputError(f"[retrain] expected a distillation of {', '.join(KINDS)}, got {kind!r}")
        if kind == "token" and (teacher is None or not is_distilled(model)):
            raise InputError("[retrain] expected a teacher, and a network with a second classifier (add_distillation) for a "
                             f"distillation token, got {'no teacher' if teacher is None else 'another network'}")  # fmt: skip
        if teacher is not None and not 0 <= distill <= 1:
            raise InputError(f"[retrain] expected a weight of the distillation in [0, 1], got {distill}")
        mixing = recipe.mixup > 0 or recipe.cutmix > 0
        if mixing and batch_size % 2:
            raise InputError(f"[retrain] expected an even batch size for mixup, got {batch_size}")
        self.model, self.recipe, self.teacher = model, recipe, teacher
        self.batch_size, self.batches, self.amp, self.sync_batch_norm = batch_size, batches, amp, sync_batch_norm
        self.distill, self.kind, self.temperature = distill, kind, temperature
        self.average = _average(model, recipe)
        self.mixing = _mixing(recipe, num_classes) if mixing else None
        self.updates: torch.Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.regularised = regularise(model, recipe.drop, recipe.drop_path)
        self._schedule: Any = None

    @property
    def result(self) -> nn.Module:
        """The trained network: that of averaged weights where the recipe averages them."""
        return self.model if self.average is None else self.average.module

    def optimizer(self) -> torch.optim.Optimizer:
        """Return timm's optimiser at the recipe's learning rate for this batch size; biases and norms do not decay."""
        from timm.optim import create_optimizer_v2

        recipe = self.recipe
        options: dict[str, Any] = {} if recipe.epsilon is None else {"eps": recipe.epsilon}
        rate = recipe.learning_rate * self.batch_size / recipe.batch_size
        return create_optimizer_v2(self.model, recipe.optimizer, rate, recipe.weight_decay, recipe.momentum, **options)

    def after_step(self, progress: float, epochs: int) -> None:
        """Update the average of the weights."""
        self.updates += 1
        if self.average is not None:
            self.average.update(self.model, int(self.updates))

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return timm's factor of the learning rate, in the recipe's schedule stretched to `epochs`."""
        if self._schedule is None:
            self._schedule = _Schedule(self.recipe, epochs, self.batches)
        return self._schedule(round(progress * self.batches))

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Run forward and backward for one batch, and return the losses "classes" and "distillation"."""
        device = device_of(self.model)
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        targets, smoothing = labels.to(device), self.recipe.label_smoothing
        if self.mixing is not None:
            if len(images) % 2:
                raise InputError(f"[retrain] expected an even number of images per process for mixup, got {len(images)}; "
                                 "use another batch size")  # fmt: skip
            # timm draws from numpy's global state.
            with seeded(int(rng.integers(2**32))):
                images, targets = self.mixing(images, targets)
            smoothing = 0.0
        with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
            output = self.model(images)
        loss = functional.cross_entropy(class_logits(output).float(), targets, label_smoothing=smoothing)
        losses = {"classes": loss.detach()}
        if self.teacher is not None:
            distillation = self._distillation(distilled_logits(output).float(), classes_of(self.teacher.logits(images)))
            losses["distillation"] = distillation.detach()
            loss = (1 - self.distill) * loss + self.distill * distillation
        backward(loss, reduce=self.reduce)
        return losses

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the network, its average and the number of updates, without the teacher's."""
        return {name: value for name, value in unshared_state(self).items() if not name.startswith("teacher.")}

    def _distillation(self, logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        if teacher_logits.shape != logits.shape:
            raise InputError(
                f"[retrain] expected a teacher of {logits.shape[1]} classes, got logits of {list(teacher_logits.shape)}"
            )
        if self.kind != "soft":
            return functional.cross_entropy(logits, teacher_logits.argmax(1))
        t = self.temperature
        student, teacher = functional.log_softmax(logits / t, 1), functional.log_softmax(teacher_logits / t, 1)
        return functional.kl_div(student, teacher, log_target=True, reduction="batchmean") * t * t


class _Schedule:
    """Factors of the starting learning rate by the number of updates, from a scheduler of timm on a stand-in optimiser."""

    def __init__(self, recipe: Recipe, epochs: int, batches: int):
        from timm.scheduler import create_scheduler_v2

        stretch = epochs / recipe.epochs
        self.stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self.scheduler, _ = create_scheduler_v2(
            self.stand_in,
            recipe.schedule,
            num_epochs=epochs,
            decay_epochs=(recipe.decay_epochs or recipe.epochs) * stretch,
            decay_rate=recipe.decay_rate,
            min_lr=recipe.min_rate,
            warmup_lr=1e-3,
            warmup_epochs=recipe.warmup_epochs * stretch,  # type: ignore[arg-type]
            step_on_epochs=False,
            updates_per_epoch=batches,
        )

    def __call__(self, updates: int) -> float:
        self.scheduler.step_update(updates)
        return self.stand_in.param_groups[0]["lr"]


def _average(model: nn.Module, recipe: Recipe) -> Any:
    from timm.utils import ModelEmaV3

    return ModelEmaV3(_Copied(model), recipe.ema, use_warmup=True) if recipe.ema else None  # type: ignore[arg-type]


class _Copied:
    """Stands for a network whose copy, made by `copy.deepcopy`, is that of `copy_module`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return copy_module(self.model)


def _mixing(recipe: Recipe, num_classes: int) -> Any:
    from timm.data import Mixup

    smoothing = recipe.label_smoothing
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=num_classes)


def retrain(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    run: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_step: Callable[[Step], None] | None = None,
    keep: Keep = Keep(),  # noqa: B008 (frozen)
    **options: Any,
) -> tuple[nn.Module, dict[str, float]]:
    """Train a network on `data.train`; return it in evaluation mode, with its accuracies and loss on `data.test`.

    epochs, batch_size: None for the recipe's.
    run: folder of checkpoints and metrics; a training that stopped resumes from there, exactly. keep: epochs whose weights
        stay there.
    options: arguments of `Retraining`: teacher, distill, kind, temperature, amp, sync_batch_norm.

    Raises:
        InputError: see `Retraining` and `pynas.fit`.
        FloatingPointError: a loss that is not finite; the last checkpoint stays.
    """
    epochs = recipe.epochs if epochs is None else epochs
    batch_size = min(recipe.batch_size if batch_size is None else batch_size, len(data.train))
    loader = training_loader(data, recipe, batch_size, seed=seed, device=device)
    method = Retraining(  # type: ignore[abstract]  # the hooks of Method that it does not define do nothing
        model, recipe, num_classes=data.num_classes, batch_size=batch_size, batches=len(loader), **options
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with method.regularised:
        fit(method, loader, epochs, run, seed=seed, on_step=on_step, keep=keep)
    result = method.result.eval()
    return result, evaluate(result, data, device=device)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: ImageData, part: str = "test", device: str | torch.device = "cpu"
) -> dict[str, float]:
    """Measure `top1` and `top5` accuracy, in [0, 1], and the mean cross-entropy `loss` on a part of the data."""
    loss, hits = 0.0, torch.zeros(2, dtype=torch.int64)
    for images, labels in data.loader(part, 256, shuffle=False, device=device):
        logits = model(images)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        hits += torch.stack([correct[:, 0].sum(), correct.sum()]).cpu()
    count = len(getattr(data, part))
    return {"top1": hits[0].item() / count, "top5": hits[1].item() / count, "loss": loss / count}
