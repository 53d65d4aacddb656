"""PreNAS: preferred one-shot training, the supernet's baselines, and the accuracy of architectures (sections 3.1, 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.data.loaders import seeded
from pynas.errors import InputError
from pynas.evaluation.error_rate import ErrorRate
from pynas.methods.whole import subnets
from pynas.spaces import Architecture
from pynas.supernets import AutoFormer, BigNAS

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]

# Table 9 and section 4.1, for 500 epochs in batches of 1,024: options of `PreNAS`, and of `ImageData.loader`. How deep the
# stochastic depth, how long the warm-up and how many the repeats, the paper leaves out: these are AutoFormer's.
_ALL = {"learning_rate": 1e-3, "min_rate": 2e-5, "warmup_epochs": 20, "label_smoothing": 0.1, "drop_path": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {**_ALL, "weight_decay": 0.02, "mixup": 0.0, "cutmix": 0.0},
    "small": {**_ALL, "weight_decay": 0.05, "mixup": 0.8, "cutmix": 1.0},
    "base": {**_ALL, "weight_decay": 0.05, "mixup": 0.8, "cutmix": 1.0},
}
LOADERS: dict[str, dict[str, Any]] = {
    "tiny": {"augmentation": "rand-m9-n2-mstd0.5-inc1", "erasing": 0.25, "erasing_count": 1, "repeats": 3},
    "small": {"augmentation": "v0r-mstd0.5", "erasing": 0.25, "erasing_count": 1, "repeats": 3},
    "base": {"augmentation": "rand-m10-n3-mstd0.5-inc1", "erasing": 0.25, "erasing_count": 2, "repeats": 3},
}


class PreNAS(nn.Module):
    """One-shot training of an AutoFormer or BigNAS supernet on its preferred architectures alone (eq. 11).

    Each step draws an architecture, classifies a batch with its slices of the weights, and updates them: AdamW, a linear
    warm-up, then a cosine.

    preferred: the architectures to concentrate on; needed but for the samplings over the whole space.
    sampling: "balanced" over (dimension, depth), of a BigNAS over (resolution, layers in all), "uniform", "resampled"
        (figure 5); over the whole space "autoformer", "spos", "fairnas": the baselines. BigNAS's own training is "spos"
        with sandwich and distill; it knows no "resampled", "autoformer", "fairnas".
    sandwich: 0, or how many drawn architectures each step trains beside the largest and the smallest one.
    distill: with sandwich, the largest learns from the labels and the others from it (in-place distillation, BigNAS).
    min_rate: the last learning rate; warmup_epochs: at most a fifth of all. drop_path: stochastic depth of the last layer.

    Raises:
        InputError: an unknown sampling, no architectures, or distillation without a sandwich.
    """

    def __init__(
        self,
        net: AutoFormer | BigNAS,
        preferred: Sequence[Architecture] | None = None,
        *,
        sampling: str = "balanced",
        sandwich: int = 0,
        distill: bool = False,
        learning_rate: float = 1e-3,
        min_rate: float = 2e-5,
        warmup_epochs: float = 20,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        drop_path: float = 0.1,
    ):
        super().__init__()
        known = subnets.PREFERRED | subnets.WHOLE
        if sampling not in known:
            raise InputError(f"[prenas] expected a sampling of {', '.join(known)}, got {sampling!r}")
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
        self.sampler = known[sampling](net.space, self.preferred)
        whole = sampling in subnets.WHOLE
        self.ends = subnets.ends(net) if whole else (self.preferred[0], self.preferred[-1])
        classes = net.classifier.out_features
        self.mixup = (
            Mixup(mixup, cutmix, switch_prob=0.5, mode="elem", label_smoothing=label_smoothing, num_classes=classes)
            if mixup or cutmix
            else None
        )
        net.set_drop_path(drop_path)

    def prepare(self, batches: Batches) -> None:
        """Nothing has to be fitted."""

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; biases, norms, the class token and positions do not decay."""
        groups = param_groups_weight_decay(self.net, self.weight_decay, no_weight_decay_list=self.net.no_weight_decay())
        return torch.optim.AdamW(groups, self.learning_rate)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Up from 1e-3 of the rate, linearly, then down to `min_rate` by a cosine."""
        warmup = min(self.warmup_epochs, epochs / 5)
        if progress < warmup:
            return 1e-3 + (1 - 1e-3) * progress / warmup
        low = self.min_rate / self.learning_rate
        return low + (1 - low) * (1 + math.cos(math.pi * (progress - warmup) / (epochs - warmup))) / 2

    def architectures(self, rng: np.random.Generator) -> list[Architecture]:
        """What a step trains; with a sandwich the largest comes first."""
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
        """Forward and backward of the step's architectures, one after the other; the mean of their losses."""
        device = next(self.net.parameters()).device
        images, targets = self._mixed(images.to(device), labels.to(device), rng)
        chosen, total, teacher = self.architectures(rng), torch.zeros((), device=device), None
        for architecture in chosen:
            logits = self.net(images, architecture)
            if teacher is not None:
                loss = F.cross_entropy(logits, teacher)
            else:
                smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
                loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
            (loss / len(chosen)).backward()
            total += loss.detach() / len(chosen)
            if self.distill and teacher is None:
                teacher = logits.detach().softmax(1)
        return {"classification": total}

    def _mixed(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixup and CutMix, image by image; timm draws from numpy's global state."""
        if self.mixup is None:
            return images, labels
        even = len(images) // 2 * 2
        with seeded(int(rng.integers(2**62))):
            return self.mixup(images[:even].clone(), labels[:even])

    def accuracy(
        self, batches: Batches, architectures: Sequence[Architecture], calibration: Batches | None = None
    ) -> np.ndarray:
        """Top-1 accuracy of each architecture with its slices of the weights, `[N]`, from 0 to 1.

        calibration: training batches that batch norm, where the net has it, is re-estimated on for each architecture.

        Raises:
            InputError: no images, or none to calibrate batch norm on.
        """
        normed = any(isinstance(part, _BatchNorm) for part in self.net.modules())
        rating = ErrorRate(self.net, batches, calibration, "recalibrate" if normed else "running")
        return 1 - rating.many(architectures)
