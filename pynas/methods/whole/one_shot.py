"""Supervised baselines on whole networks: single path one-shot (SPOS) and FairNAS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.sampling import fair_architectures
from pynas.methods.schedule import warm_cosine
from pynas.methods.views import place
from pynas.methods.whole.pinas import check_net
from pynas.spaces import Architecture
from pynas.supernets import AutoFormer

SAMPLING = ("uniform", "fair")


class OneShot(nn.Module):
    """Each step trains paths of the supernet with the labels: mean cross-entropy, SGD, cosine.

    sampling: "uniform" draws one path (Guo et al., ECCV 2020); "fair" draws as many as a layer has candidates, each
    candidate in one of them, and updates once by the sum of their gradients (Chu et al., ICCV 2021).

    Raises:
        InputError: unknown sampling, a net without a classifier, or an AutoFormer supernet, which is `PreNAS`'s.
    """

    def __init__(
        self,
        net: Any,
        *,
        sampling: str = "uniform",
        learning_rate: float = 0.05,
        weight_decay: float = 4e-5,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if isinstance(net, AutoFormer):
            name = "spos" if sampling == "uniform" else "fairnas"
            raise InputError(f"[one-shot] expected a supernet with weights of each candidate's own, got {net.space.name}, "
                             f"which shares slices; use pynas.methods.PreNAS(net, sampling={name!r})")  # fmt: skip
        check_net("one-shot", net)
        if sampling not in SAMPLING:
            raise InputError(f"[one-shot] expected sampling of {', '.join(SAMPLING)}, got {sampling!r}")
        self.net, self.sampling = net, sampling
        self.learning_rate, self.weight_decay, self.label_smoothing = learning_rate, weight_decay, label_smoothing

    def prepare(self, batches: Iterable[Any]) -> None:
        """Nothing to fit."""

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9 over the whole supernet."""
        return torch.optim.SGD(self.net.parameters(), self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """A cosine from 1 to 0."""
        return warm_cosine(progress, epochs)

    def architectures(self, rng: np.random.Generator) -> list[Architecture]:
        """The paths of a step."""
        space = self.net.space
        return fair_architectures(space, rng) if self.sampling == "fair" else [space.sample(rng)]

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """One step; the loss reported is the mean over its paths."""
        images, losses = place(self.net, images), []
        for architecture in self.architectures(rng):
            logits = self.net(images, architecture)
            loss = functional.cross_entropy(logits, labels.to(logits.device), label_smoothing=self.label_smoothing)
            loss.backward()
            losses.append(loss.detach())
        return {"classification": torch.stack(losses).mean()}


def spos(net: Any, *, learning_rate: float = 0.05, weight_decay: float = 4e-5, label_smoothing: float = 0.0) -> OneShot:
    """Single path one-shot: each step trains one uniformly drawn path with the labels."""
    return OneShot(net, sampling="uniform", learning_rate=learning_rate, weight_decay=weight_decay,
                   label_smoothing=label_smoothing)  # fmt: skip


def fairnas(
    net: Any, *, learning_rate: float = 0.05, weight_decay: float = 4e-5, label_smoothing: float = 0.0
) -> OneShot:
    """FairNAS: each step trains every candidate of every layer once, with the labels."""
    return OneShot(net, sampling="fair", learning_rate=learning_rate, weight_decay=weight_decay,
                   label_smoothing=label_smoothing)  # fmt: skip
