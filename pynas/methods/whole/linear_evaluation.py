"""Linear evaluation: one classifier for all paths of a frozen supernet (Pi-NAS, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.checked import NonNegative, Positive, checked
from pynas.methods.views import place
from pynas.supernets.modes import batch_statistics, device_of
from pynas.train.method import Method, backward


class LinearEvaluation(nn.Module, Method):
    """Training of the supernet's classifier alone, on the features of a random path each step.

    Batch norm normalises by the batch; neither weights nor running statistics of the supernet change. SGD with momentum
    0.9 and no weight decay at 30, times 0.1 after 60 % and 80 % of the epochs (section 4.1).

    net: a supernet with a classifier. learning_rate: 30 suits 2048 features of a ResNet; larger features need less.
    """

    @checked("linear evaluation")
    def __init__(
        self,
        net: Any,
        *,
        learning_rate: Positive = 30.0,
        milestones: Sequence[NonNegative] = (0.6, 0.8),
        decay: NonNegative = 0.1,
    ):
        super().__init__()
        self.net = net
        _ = net.classifier  # a net without one raises an InputError
        self.learning_rate, self.milestones, self.decay = learning_rate, tuple(milestones), decay

    def prepare(self, batches: Iterable[Any]) -> None:
        """Initialise the classifier: weights of standard deviation 0.01, as in MoCo."""
        nn.init.normal_(self.net.classifier.weight, std=0.01)
        nn.init.zeros_(self.net.classifier.bias)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return SGD over the classifier."""
        return torch.optim.SGD(self.net.classifier.parameters(), self.learning_rate, momentum=0.9, fused=True)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return `decay` to the power of the number of milestones that have passed."""
        return self.decay ** sum(progress >= milestone * epochs for milestone in self.milestones)

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Train the classifier by cross-entropy on the features of one random path."""
        with torch.no_grad(), batch_statistics(self.net):
            features = self.net.features(place(images, device_of(self.net)), self.net.space.sample(rng))
        loss = functional.cross_entropy(self.net.classifier(features), labels.to(features.device))
        backward(loss, reduce=self.reduce)
        return {"classification": loss.detach()}
