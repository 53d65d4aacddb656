"""Supervised baselines on whole networks: single path one-shot (SPOS) and FairNAS."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.checked import Fraction, NonNegative, Positive, checked
from pynas.errors import InputError
from pynas.methods.sampling import fair_architectures
from pynas.methods.schedule import warm_cosine
from pynas.methods.views import place
from pynas.spaces import Architecture
from pynas.supernets import device_of
from pynas.train.method import Method, backward, with_last


class OneShot(nn.Module, Method):
    """Supervised training of random paths of a supernet: mean cross-entropy, SGD, a learning rate that falls to 0.

    sampling: "uniform" draws one path (Guo et al., ECCV 2020); "fair" draws as many as a layer has candidates, each
    candidate in one of them, and updates once by the sum of their gradients (Chu et al., ICCV 2021).
    schedule: of the learning rate, "cosine" or "linear".

    Raises:
        InputError: an option out of its range, a net without a classifier, or an AutoFormer supernet, which `PreNAS` trains.
    """

    @checked("one-shot")
    def __init__(
        self,
        net: Any,
        *,
        sampling: Literal["uniform", "fair"] = "uniform",
        learning_rate: Positive = 0.05,
        weight_decay: NonNegative = 4e-5,
        label_smoothing: Fraction = 0.0,
        schedule: Literal["cosine", "linear"] = "cosine",
    ):
        super().__init__()
        if net.space.kind == "autoformer":
            name = "spos" if sampling == "uniform" else "fairnas"
            raise InputError(f"[one-shot] expected a supernet with weights of each candidate's own, got {net.space.name}, "
                             f"which shares slices; use pynas.methods.PreNAS(net, sampling={name!r})")  # fmt: skip
        _ = net.classifier  # a net without one raises an InputError
        self.net, self.sampling = net, sampling
        self.learning_rate, self.weight_decay, self.label_smoothing = learning_rate, weight_decay, label_smoothing
        self.schedule = schedule

    def optimizer(self) -> torch.optim.Optimizer:
        """Return SGD with momentum 0.9 over the whole supernet."""
        # Not fused: torch's fused SGD fails where a parameter gets its first gradient in a later step.
        return torch.optim.SGD(self.net.parameters(), self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a cosine or a line from 1 to 0."""
        return warm_cosine(progress, epochs) if self.schedule == "cosine" else 1 - progress / epochs

    def architectures(self, rng: np.random.Generator) -> list[Architecture]:
        """Draw the architectures of a step."""
        space = self.net.space
        return fair_architectures(space, rng) if self.sampling == "fair" else [space.sample(rng)]

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Run forward and backward of the step's paths; the reported loss is their mean."""
        images, losses = place(images, device_of(self.net)), []
        for architecture, last in with_last(self.architectures(rng)):
            logits = self.net(images, architecture)
            loss = functional.cross_entropy(logits, labels.to(logits.device), label_smoothing=self.label_smoothing)
            backward(loss, reduce=self.reduce if last else None)
            losses.append(loss.detach())
        return {"classification": torch.stack(losses).mean()}


@checked("spos")
def spos(
    net: Any,
    *,
    learning_rate: Positive = 0.05,
    weight_decay: NonNegative = 4e-5,
    label_smoothing: Fraction = 0.0,
    schedule: Literal["cosine", "linear"] = "cosine",
) -> OneShot:
    """Return single path one-shot: each step trains one uniformly drawn path with the labels."""
    return OneShot(net, sampling="uniform", learning_rate=learning_rate, weight_decay=weight_decay,
                   label_smoothing=label_smoothing, schedule=schedule)  # fmt: skip


@checked("fairnas")
def fairnas(
    net: Any,
    *,
    learning_rate: Positive = 0.05,
    weight_decay: NonNegative = 4e-5,
    label_smoothing: Fraction = 0.0,
    schedule: Literal["cosine", "linear"] = "cosine",
) -> OneShot:
    """Return FairNAS: each step trains every candidate of every layer once, with the labels."""
    return OneShot(net, sampling="fair", learning_rate=learning_rate, weight_decay=weight_decay,
                   label_smoothing=label_smoothing, schedule=schedule)  # fmt: skip
