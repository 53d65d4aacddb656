"""Pi-NAS: cross-path consistency with a nontrivial mean teacher (Peng et al., ICCV 2021, section 3.2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from torch import nn
from torch.nn import functional

from pynas.checked import AtLeastOne, NonNegative, Positive, checked
from pynas.errors import InputError
from pynas.methods.ema import frozen_copy
from pynas.methods.sampling import differing_pair
from pynas.methods.schedule import warm_cosine
from pynas.methods.views import place
from pynas.methods.whole.shuffle import gathered, shuffled, unshuffled
from pynas.nn import FeatureQueue
from pynas.nn.batch_norm import NormSequential
from pynas.ops.queue_nce import queue_nce
from pynas.spaces import Architecture
from pynas.supernets import device_of
from pynas.train.method import Method, backward

VIEWS = 4
# Spread of unit vectors below which the representations count as constant; independent vectors have 1.
COLLAPSED = 0.05


class PiNAS(nn.Module, Method):
    """The supernet learns features that agree across the paths of an image, and differ from other images' features.

    Each step draws paths i and j that differ in every layer and sends four views of the images through them: z_i and z_j
    from the supernet, z'_i and z'_j from its mean teacher. The loss is

        L = -E[log e^(z_i z'_j) / (sum_n e^(z_i n) + e^(z_i z'_j)) + log e^(z_j z'_i) / (sum_n e^(z_j n) + e^(z_j z'_i))]

    (eq. 4), with all products over a temperature (0.2 as in the released code; eq. 4 prints 1) and negatives n from a queue
    of earlier (z'_i + z'_j) / 2. z is a two-layer projection of the features, L2-normalised. Weights of the mean teacher
    follow W' = m W' + (1 - m) W (eq. 2), only those that the paths of this step run.

    net: a supernet with `features`, `classifier` and `modules_of`. Ablations of table 7:
    cross_path: False compares z_i with z'_i and z_j with z'_j instead.
    mean_teacher: False takes z' from the supernet itself, without gradient (the supernet-Pi model).
    negatives: False minimises eq. 1 alone; it collapses, and a warning is given once.
    augmented_views: False sends one view of each image through all four passes (figure 4, DA: different augmented views).
    projector_norm: batch norm in the projection, not in the paper: small networks start near the constant solution, and
    then leave it within tens of steps instead of thousands.
    The space decides whether shortcuts are shared: those of `splitattention-unshared` are not.

    Raises:
        InputError: a net without a classifier, or an option out of its range.
    """

    @checked("pinas")
    def __init__(
        self,
        net: Any,
        *,
        cross_path: bool = True,
        mean_teacher: bool = True,
        negatives: bool = True,
        augmented_views: bool = True,
        projector_norm: bool = False,
        dim: AtLeastOne = 128,
        queue_size: AtLeastOne = 49_152,
        temperature: Positive = 0.2,
        momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        learning_rate: Positive = 0.03,
        weight_decay: NonNegative = 1e-4,
    ):
        super().__init__()
        if net.space.kind == "autoformer":
            raise InputError(f"[pinas] expected a supernet whose networks end in one width, got {net.space.name}; use prenas or "
                             "spos")  # fmt: skip
        self.net = net
        self.cross_path, self.mean_teacher, self.negatives = cross_path, mean_teacher, negatives
        self.views = VIEWS if augmented_views else 1  # of each image in a training batch
        self.temperature, self.momentum = temperature, momentum
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        width = net.classifier.in_features
        norm = [nn.BatchNorm1d(width)] if projector_norm else []
        self.projector = NormSequential(nn.Linear(width, width), *norm, nn.ReLU(), nn.Linear(width, dim))
        self.key_net = frozen_copy(net) if mean_teacher else None
        self.key_projector = frozen_copy(self.projector) if mean_teacher else None
        self.queue = FeatureQueue(queue_size, dim) if negatives else None
        self.spread, self.collapsed = 1.0, False

    def prepare(self, batches: Iterable[Any]) -> None:
        """Copy the supernet's weights to the mean teacher."""
        if self.key_net is not None and self.key_projector is not None:
            self.key_net.load_state_dict(self.net.state_dict())
            self.key_projector.load_state_dict(self.projector.state_dict())

    def optimizer(self) -> torch.optim.Optimizer:
        """Return SGD over the supernet and the projection (section 4.1), without the classifier: see `LinearEvaluation`."""
        skipped = {id(parameter) for parameter in self.net.classifier.parameters()}
        trained = [p for p in [*self.net.parameters(), *self.projector.parameters()] if id(p) not in skipped]
        # Not fused: torch's fused SGD fails where a parameter gets its first gradient in a later step.
        return torch.optim.SGD(trained, self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a cosine from 1 to 0."""
        return warm_cosine(progress, epochs)

    def training_step(
        self, images: Sequence[torch.Tensor] | torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Run forward and backward for four views `[B, 3, H, W]` of the same images, or for one; labels are not used.

        Raises:
            InputError: another number of views.
        """
        given = [images] if isinstance(images, torch.Tensor) else images
        if len(given) != self.views:
            raise InputError(f"[pinas] expected {self.views} views of each image, got {len(given)}; use a loader with "
                             f"views={self.views}")  # fmt: skip
        views = [place(view, device_of(self)) for view in given] * (VIEWS // self.views)
        paths = differing_pair(self.net.space, rng)
        self.follow(paths)
        queries = [self.query(view, path) for view, path in zip(views[:2], paths)]
        keys = [self.key(view, path) for view, path in zip(views[2:], paths)]
        partners = keys[::-1] if self.cross_path else keys
        loss = torch.stack([self.distance(query, key) for query, key in zip(queries, partners)]).sum()
        backward(loss, reduce=self.reduce)
        if self.queue is not None:
            self.queue.push(gathered((keys[0] + keys[1]) / 2))
        self.watch(queries[0].detach())
        return {"consistency": loss.detach()}

    def query(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Return the supernet's representations z of the images on a path, `[B, dim]`."""
        return functional.normalize(self.projector(self.net.features(images, architecture)), dim=1)

    @torch.no_grad()
    def key(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Return the mean teacher's representations z' of the images on a path, `[B, dim]`.

        Several processes exchange images first, so that batch norm's statistics do not reveal the matching images.
        """
        images, order = shuffled(images)
        if self.key_net is None or self.key_projector is None:
            keys = self.query(images, architecture)
        else:
            keys = functional.normalize(self.key_projector(self.key_net.features(images, architecture)), dim=1)
        return unshuffled(keys, order)

    def distance(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return one of the two terms of eq. 4 (without negatives of eq. 1), averaged over the batch."""
        if self.queue is None:
            return -(query * key).sum(1).mean()
        return queue_nce(query, key, self.queue.features, self.temperature).mean()

    @torch.no_grad()
    def follow(self, paths: Sequence[Architecture]) -> None:
        """Move the mean teacher by eq. 2, once for each weight that the paths run; other weights do not change."""
        if self.key_net is None or self.key_projector is None:
            return
        pairs = [(self.projector, self.key_projector)]
        for path in paths:
            pairs += zip(self.net.modules_of(path), self.key_net.modules_of(path))
        weights = {
            id(slow): (slow, fast)
            for own, mean in pairs
            for fast, slow in zip(own.parameters(), mean.parameters())
        }  # fmt: skip
        slow, fast = zip(*weights.values())
        torch._foreach_lerp_(slow, fast, 1 - self.momentum)

    @torch.no_grad()
    def watch(self, queries: torch.Tensor) -> None:
        """Record the spread of representations `[B, dim]` (1 for independent unit vectors), and warn of a collapse."""
        if len(queries) < 2:
            return
        self.spread = float(queries.std(0).square().sum().sqrt())
        if self.spread < COLLAPSED and not self.collapsed:
            self.collapsed = True
            reason = "" if self.negatives else ", as is to be expected without negatives (table 7)"
            warnings.warn(
                f"[pinas] the representations have collapsed{reason}: they are the same for all images, "
                f"spread {self.spread:.1e}; the supernet will not rank architectures",
                stacklevel=2,
            )
