"""Rating of a BossNAS block: the distance of each path to the population's centre, or a loss with labels (table 5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from pynas.checked import AtLeastOne, Positive, checked
from pynas.errors import InputError
from pynas.methods.blocks import Batches, BlockBatches, Pair
from pynas.methods.bossnas.block_tree import Layers, block_tree, split_scores
from pynas.methods.bossnas.collapse import warn_constant
from pynas.methods.bossnas.heads import PathHead
from pynas.methods.bossnas.population import evolve
from pynas.methods.ema import frozen_copy
from pynas.methods.sampling import BlockSampler
from pynas.methods.views import first_view
from pynas.rating import ScoreTable, rate, rate_population
from pynas.spaces import Choice
from pynas.supernets import Supernet, device_of


@checked("bossnas")
@dataclass(frozen=True, kw_only=True)
class PathRating:
    """Settings of a rating.

    kind: "centre": |S(p; x1) - mean over all paths q of S(q; x2)|^2 (eq. 5-6).
        "classification" and "distillation": the training loss of those targets. "linear": cross-entropy of a linear
        classifier that all paths share, trained on their frozen features. None: by the method's target.
    centre_of: supernet that gives the mean, "online" (eq. 5) or "average", the averaged one. exchange_views: add the distance
        with x1 and x2 exchanged. The released code has the average and exchanges the views.
    norm: "recalibrate" (statistics per path, from the calibration batches) or "batch".
    population, generations: rate an evolving population of this size instead of all paths; the last one is scored.
    probe_epochs, probe_rate: training of the linear classifier (Adam).
    """

    kind: Literal["centre", "classification", "distillation", "linear"] | None = None
    norm: Literal["recalibrate", "batch", "running"] = "recalibrate"
    centre_of: Literal["average", "online"] = "online"
    exchange_views: bool = False
    population: Annotated[int, Ge(2)] | None = None
    generations: AtLeastOne = 8
    probe_epochs: AtLeastOne = 5
    probe_rate: Positive = 0.01


@dataclass(frozen=True)
class TrainedBlock:
    """A trained block, as a rating reads it.

    number: of the block, counted from 0. head: its head in the online supernet `net`.
    averaged: the averaged supernet and the block's head there; None for supervised targets.
    sampler: draws paths for the linear classifier. state: boundary state that the block continues from.
    features: called with images, returns the block's input. pooled: called with images, returns the teacher's features.
    """

    number: int
    net: Supernet
    head: PathHead
    averaged: tuple[Supernet, nn.Module] | None
    sampler: BlockSampler
    state: object
    features: Callable[[Tensor], Tensor]
    pooled: Callable[[Tensor], Tensor]
    target: str
    renormalize: bool
    num_classes: int | None


def rate_block(
    block: TrainedBlock, batches: Batches, calibration: Batches, settings: PathRating, seed: int = 0, **options: Any
) -> list[ScoreTable]:
    """Score every path of a block that can follow the chosen ones, or an evolving population of them: a table per cell.

    batches: (two fixed views, labels), the same batches each time. calibration: training batches, for batch-norm statistics
    and the linear classifier. seed: of the population and the classifier. options: for `pynas.rating.rate_population` or
    `pynas.rate`.
    """
    kind = settings.kind or (block.target if block.averaged is None else "centre")
    _check_kind(block, kind)
    head = _probe(block, calibration, settings, seed) if kind == "linear" else block.head
    inputs = block_batches(block, batches, kind)
    calibrating = [block.features(first_view(images)) for images, _ in calibration]

    def score(choices: Sequence[Choice]) -> dict[Choice, float]:
        tree = block_tree(block.net, block.number, choices)
        common = {"norm": settings.norm, "calibration": calibrating, "paths": tree.paths.values(), **options}
        if kind == "centre":
            table = _to_centre(block, inputs, choices, tree.layers, settings, common)
        else:
            loss = "mse" if kind == "distillation" else "cross_entropy"
            table = rate(tree.layers, inputs, loss, tail=head, tail_norm=settings.norm, **common)
        return tree.scores(table)

    space = block.net.space
    cells = space.blocks[block.number]
    if settings.population is None:
        following = space.cells_after(block.number, block.state).items()
        scores = score([Choice(c, path) for c, cell in following for path in cell.paths()])
    else:
        rng = np.random.default_rng([seed, block.number])
        scores = evolve(score, cells, settings.population, settings.generations, rng, block.state)
    warn_constant(scores.values(), block.number)
    return split_scores(cells, scores, rating=kind, norm=settings.norm, population=settings.population)


def _to_centre(
    block: TrainedBlock,
    inputs: BlockBatches,
    choices: Sequence[Choice],
    layers: Layers,
    settings: PathRating,
    options: Any,
) -> ScoreTable:
    targets: dict[str, Any] = {}
    if settings.centre_of == "average" and block.averaged is not None:
        ema, head = block.averaged
        targets = {"target_layers": block_tree(ema, block.number, choices).layers, "target_tail": head}
    return rate_population(layers, inputs, tail=block.head, renormalize=block.renormalize, both_views=settings.exchange_views,
                           **targets, **options)  # fmt: skip


def block_batches(block: TrainedBlock, batches: Batches, kind: str) -> BlockBatches:
    """Return a block's input and target for every batch: the other view, the labels, or the teacher's pooled features."""

    def pair(images: Any, labels: Tensor) -> Pair:
        x = block.features(first_view(images))
        if kind == "distillation":
            return x, block.pooled(first_view(images))
        if kind != "centre":
            return x, labels
        if not isinstance(images, (list, tuple)) or len(images) != 2:
            got = f"{len(images)} views" if isinstance(images, (list, tuple)) else "single images"
            raise InputError(f"[bossnas] expected two views to rate paths by, got {got}; use a loader with views=2")
        return x, block.features(images[1])

    return BlockBatches(batches, pair)


def _check_kind(block: TrainedBlock, kind: str) -> None:
    """Raise InputError where the method's target does not allow a kind of rating."""
    if kind == "centre" and block.averaged is None:
        raise InputError(f"[bossnas] expected a bootstrapped target for rating by the centre, got {block.target!r}; "
                         "use kind=None")  # fmt: skip
    if kind in ("classification", "distillation") and kind != block.target:
        raise InputError(f"[bossnas] expected target={kind!r} for rating by it, got {block.target!r}; use kind=None")


def _probe(block: TrainedBlock, batches: Batches, settings: PathRating, seed: int) -> nn.Module:
    """Train a linear classifier on the frozen features of random paths; returns it after the head's width and pooling."""
    net, head = frozen_copy(block.net).train(), frozen_copy(block.head).train()
    if block.num_classes is None:
        raise InputError("[bossnas] expected num_classes for rating by linear evaluation, got none")
    rng, device = np.random.default_rng([seed, block.number]), device_of(head)
    linear = nn.Linear(head.width, block.num_classes).to(device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.Adam(linear.parameters(), settings.probe_rate, fused=True)
    for images, labels in itertools.chain.from_iterable(itertools.repeat(batches, settings.probe_epochs)):
        x = block.features(first_view(images))
        for choice in block.sampler(rng):
            with torch.no_grad():
                features = head.features(net.run_path(block.number, choice, net.enter(x) if block.number == 0 else x))
            optimizer.zero_grad()
            functional.cross_entropy(linear(features.float()), labels.to(features.device)).backward()
            optimizer.step()
    return nn.Sequential(head.fix, head.pool, linear).requires_grad_(False)
