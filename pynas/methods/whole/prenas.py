"""PreNAS: preferred one-shot training, and the baselines of AutoFormer supernets (sections 3.1, 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from timm.data import Mixup
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

from pynas.checked import Fraction, NonNegative, Positive, checked
from pynas.data.loaders import seeded
from pynas.errors import InputError
from pynas.methods.whole import subnets
from pynas.spaces import Architecture
from pynas.supernets import AutoFormer, BigNAS, device_of
from pynas.train.method import Method, backward, with_last


class PreNAS(nn.Module, Method):
    """One-shot training of an AutoFormer or BigNAS supernet on its preferred architectures alone (eq. 11).

    Each step draws an architecture, classifies a batch with its slices of the weights, and updates them: AdamW, a linear
    warm-up, then a cosine.

    preferred: the architectures to train; not needed for the samplings over the whole space.
    sampling: of the preferred architectures "balanced" over (dimension, depth), for BigNAS over (resolution, total number
        of layers), "uniform" or "resampled" (figure 5); of the whole space "autoformer", "spos" or "fairnas", the
        baselines. BigNAS's own training is "spos" with sandwich and distill; it has no "resampled", "autoformer", "fairnas".
    sandwich: number of drawn architectures that each step trains in addition to the largest and the smallest one; 0: no
        sandwich.
    distill: with sandwich, the largest learns from the labels and the others from it (in-place distillation, BigNAS).
    min_rate: last learning rate. warmup_epochs: at most a fifth of all epochs. mixup, cutmix: alpha of their beta
        distributions, 0 for none. drop_path: stochastic depth of the last layer.

    Raises:
        InputError: an option out of its range, no architectures, or distillation without a sandwich.
    """

    @checked("prenas")
    def __init__(
        self,
        net: AutoFormer | BigNAS,
        preferred: Sequence[Architecture] | None = None,
        *,
        sampling: Literal["balanced", "uniform", "resampled", "autoformer", "spos", "fairnas"] = "balanced",
        sandwich: Annotated[int, Ge(0)] = 0,
        distill: bool = False,
        learning_rate: Positive = 1e-3,
        min_rate: NonNegative = 2e-5,
        warmup_epochs: NonNegative = 20,
        weight_decay: NonNegative = 0.05,
        label_smoothing: Fraction = 0.1,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        drop_path: Fraction = 0.1,
    ):
        super().__init__()
        if len(net.space) > 1 and sampling not in subnets.OF_BLOCKS:
            raise InputError(f"[prenas] expected a sampling of {', '.join(sorted(subnets.OF_BLOCKS))} for {net.space.name}, "
                             f"got {sampling!r}")  # fmt: skip
        if sampling in subnets.PREFERRED and not preferred:
            raise InputError(f"[prenas] expected preferred architectures for sampling={sampling}, got none")
        if distill and not sandwich:
            raise InputError("[prenas] expected sandwich of at least 1 for distillation, got 0")
        self.net, self.sampling, self.sandwich, self.distill = net, sampling, sandwich, distill
        self.learning_rate, self.min_rate, self.warmup_epochs = learning_rate, min_rate, warmup_epochs
        self.weight_decay, self.label_smoothing = weight_decay, label_smoothing
        self.preferred = tuple(preferred or ())
        self.sampler = (subnets.PREFERRED | subnets.WHOLE)[sampling](net.space, self.preferred)
        whole = sampling in subnets.WHOLE
        self.ends = subnets.ends(net) if whole else (self.preferred[0], self.preferred[-1])
        classes = net.classifier.out_features
        self.mixup = (
            Mixup(mixup, cutmix, switch_prob=0.5, mode="elem", label_smoothing=label_smoothing, num_classes=classes)
            if mixup or cutmix
            else None
        )
        net.set_drop_path(drop_path)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; biases, norms, the class token and positions have no weight decay."""
        groups = param_groups_weight_decay(self.net, self.weight_decay, no_weight_decay_list=self.net.no_weight_decay())
        return torch.optim.AdamW(groups, self.learning_rate, fused=True)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up from 1e-3, then a cosine down to `min_rate`."""
        warmup = min(self.warmup_epochs, epochs / 5)
        if progress < warmup:
            return 1e-3 + (1 - 1e-3) * progress / warmup
        low = self.min_rate / self.learning_rate
        return low + (1 - low) * (1 + math.cos(math.pi * (progress - warmup) / (epochs - warmup))) / 2

    def architectures(self, rng: np.random.Generator) -> list[Architecture]:
        """Draw the architectures of a step; with a sandwich the largest comes first."""
        if not self.sandwich:
            return self.sampler(rng)
        drawn: list[Architecture] = []
        while len(drawn) < self.sandwich:
            drawn += self.sampler(rng)
        smallest, largest = self.ends
        return [largest, *drawn[: self.sandwich], smallest]

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Run forward and backward of the step's architectures; the reported loss is their mean."""
        device = device_of(self.net)
        images, targets = self._mixed(images.to(device), labels.to(device), rng)
        chosen, total, teacher = self.architectures(rng), torch.zeros((), device=device), None
        for architecture, last in with_last(chosen):
            logits = self.net(images, architecture)
            if teacher is not None:
                loss = F.cross_entropy(logits, teacher)
            else:
                smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
                loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
            backward(loss / len(chosen), reduce=self.reduce if last else None)
            total += loss.detach() / len(chosen)
            if self.distill and teacher is None:
                teacher = logits.detach().softmax(1)
        return {"classification": total}

    def _mixed(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply Mixup and CutMix, image by image; timm draws from numpy's global state, which is seeded here."""
        if self.mixup is None:
            return images, labels
        even = len(images) // 2 * 2
        with seeded(int(rng.integers(2**62))):
            return self.mixup(images[:even].clone(), labels[:even])
