"""Linear evaluation: one classifier for all paths of a frozen supernet (Pi-NAS, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.methods.views import place
from pynas.methods.whole.pinas import check_net
from pynas.supernets.modes import batch_statistics


class LinearEvaluation(nn.Module):
    """A method for `pynas.fit` that trains the supernet's classifier alone, on the features of a random path each step.

    Batch norm normalises by the batch; neither weights nor running statistics of the supernet change. SGD with momentum
    0.9 and no weight decay at 30, times 0.1 after 60 % and 80 % of the epochs (section 4.1).

    learning_rate: 30 suits 2048 features of a ResNet; where features are larger, less.
    """

    def __init__(
        self, net: Any, *, learning_rate: float = 30.0, milestones: Sequence[float] = (0.6, 0.8), decay: float = 0.1
    ):
        super().__init__()
        check_net("linear evaluation", net)
        self.net = net
        self.learning_rate, self.milestones, self.decay = learning_rate, tuple(milestones), decay

    def prepare(self, batches: Iterable[Any]) -> None:
        """A fresh classifier: weights of deviation 0.01, as MoCo's."""
        nn.init.normal_(self.net.classifier.weight, std=0.01)
        nn.init.zeros_(self.net.classifier.bias)

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD over the classifier."""
        return torch.optim.SGD(self.net.classifier.parameters(), self.learning_rate, momentum=0.9)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """`decay` for every milestone that has passed."""
        return self.decay ** sum(progress >= milestone * epochs for milestone in self.milestones)

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy of the classifier on one path's features."""
        with torch.no_grad(), batch_statistics(self.net):
            features = self.net.features(place(self.net, images), self.net.space.sample(rng))
        loss = functional.cross_entropy(self.net.classifier(features), labels.to(features.device))
        loss.backward()
        return {"classification": loss.detach()}
