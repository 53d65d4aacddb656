"""How BossNAS scores the paths of a block: the distance to the population's centre, or with labels (table 5)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.bossnas.block_paths import block_choices, block_tree, split_scores
from pynas.methods.bossnas.collapse import warn_constant
from pynas.methods.bossnas.losses import pooled
from pynas.methods.bossnas.population import evolve
from pynas.methods.ema import frozen_copy
from pynas.methods.views import first_view
from pynas.rating import ScoreTable, rate, rate_population
from pynas.spaces import Choice

if TYPE_CHECKING:
    from pynas.methods.bossnas.bossnas import BossNAS

Batches = Iterable[tuple[Any, Tensor]]
RATINGS = ("centre", "classification", "distillation", "linear")


@dataclass(frozen=True)
class PathRating:
    """Settings of a rating.

    kind: "centre": |S(p; x1) - mean over all paths of S(q; x2)|^2 and the same with the views exchanged (eq. 5-6), the
    mean taken from the averaged supernet as in the released code (`centre_of="online"`: eq. 5 to the letter);
    "classification" and "distillation": the training loss of those targets; "linear": cross-entropy of a linear
    classifier that all paths share, trained on their frozen features; None: by the method's target.
    norm: "recalibrate" (statistics per path, from the calibration batches) or "batch".
    population, generations: rate an evolving population of so many paths instead of all; the last one is scored.
    probe_epochs, probe_rate: training of the linear classifier (Adam).
    """

    kind: str | None = None
    norm: str = "recalibrate"
    centre_of: str = "average"
    population: int | None = None
    generations: int = 8
    probe_epochs: int = 5
    probe_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in (None, *RATINGS):
            raise InputError(f"[bossnas] expected a rating of {', '.join(RATINGS)}, got {self.kind!r}")
        if self.centre_of not in ("average", "online"):
            raise InputError(f"[bossnas] expected centre_of to be average or online, got {self.centre_of!r}")
        if self.population is not None and self.population < 2:
            raise InputError("[population] expected at least two paths, since one alone is its own centre, "
                             f"got {self.population}")  # fmt: skip


def rate_block(
    method: BossNAS,
    batches: Batches,
    block: int,
    calibration: Batches,
    settings: PathRating,
    seed: int = 0,
    **options: Any,
) -> list[ScoreTable]:
    """Score every path of a block that can follow the chosen ones (or an evolving population of them): a table per cell.

    batches: (two fixed views, labels), the same each time. calibration: training batches, for statistics and the probe.
    seed: of the population and the probe. options: for `pynas.rating.rate_population` or `pynas.rate`.
    """
    kind = settings.kind or (method.target if not len(method.ema_heads) else "centre")
    _check_kind(method, kind)
    tail = _probe(method, block, calibration, settings, seed) if kind == "linear" else None
    still = [method.features(first_view(images), block) for images, _ in calibration]

    def score(choices: Sequence[Choice]) -> dict[Choice, float]:
        tree = block_tree(method.net, block, choices)
        common = {"norm": settings.norm, "calibration": still, "paths": tree.paths.values(), **options}
        if kind == "centre":
            return tree.scores(_to_centre(method, batches, block, choices, tree.layers, settings.centre_of, common))
        loss = "mse" if kind == "distillation" else "cross_entropy"
        inputs, head = BlockInputs(method, batches, block, kind), tail or method.heads[block]
        return tree.scores(rate(tree.layers, inputs, loss, tail=head, tail_norm=settings.norm, **common))

    cells, state = method.net.space.blocks[block], method.start_state(block)
    if settings.population is None:
        scores = score(block_choices(cells, state))
    else:
        rng = np.random.default_rng([seed, block])
        scores = evolve(score, cells, settings.population, settings.generations, rng, state)
    warn_constant(scores.values(), block)
    return split_scores(cells, scores, rating=kind, norm=settings.norm, population=settings.population)


def _to_centre(method, batches, block, choices, layers, centre_of, common) -> ScoreTable:
    targets = {}
    if centre_of == "average":
        averaged = block_tree(method.ema, block, choices)
        targets = {"target_layers": averaged.layers, "target_tail": method.ema_heads[block]}
    inputs = BlockInputs(method, batches, block, "centre")
    return rate_population(
        layers, inputs, tail=method.heads[block], renormalize=method.renormalize, **targets, **common
    )


class BlockInputs:
    """What a block gets of each batch, with its target: the other view, the labels, or the teacher's pooled features."""

    def __init__(self, method: BossNAS, batches: Batches, block: int, kind: str):
        self.method, self.batches, self.block, self.kind = method, batches, block, kind

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        method = self.method
        for images, labels in self.batches:
            x = method.features(first_view(images), self.block)
            if self.kind == "centre":
                if not isinstance(images, (list, tuple)) or len(images) != 2:
                    got = f"{len(images)} views" if isinstance(images, (list, tuple)) else "single images"
                    raise InputError(
                        f"[bossnas] expected two views to rate paths by, got {got}; use a loader with views=2"
                    )
                yield x, method.features(images[1], self.block)
            elif self.kind == "distillation":
                assert method.teacher is not None
                yield x, pooled(method.teacher, self.block, method.place(first_view(images)))
            else:
                yield x, labels


def _check_kind(method: BossNAS, kind: str) -> None:
    """Whether the method has what a kind of rating needs."""
    if kind == "centre" and not len(method.ema_heads):
        raise InputError(f"[bossnas] expected a bootstrapped target for rating by the centre, got {method.target!r}")
    if kind in ("classification", "distillation") and kind != method.target:
        raise InputError(f"[bossnas] expected target={kind!r} for rating by it, got {method.target!r}")


def _probe(method: BossNAS, block: int, batches: Batches, settings: PathRating, seed: int) -> nn.Module:
    """Fix, mean over space, and a linear classifier trained on the frozen features of random paths."""
    net, head = frozen_copy(method.net).train(), frozen_copy(method.head(block)).train()
    if method.num_classes is None:
        raise InputError("[bossnas] expected num_classes for rating by linear evaluation, got none")
    rng, sample = np.random.default_rng([seed, block]), method.sampler(block, method.start_state(block))
    linear = nn.Linear(head.width, method.num_classes).to(method.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.Adam(linear.parameters(), settings.probe_rate)
    for _, (images, labels) in itertools.product(range(settings.probe_epochs), list(batches)):
        x = method.features(first_view(images), block)
        for choice in sample(rng):
            with torch.no_grad():
                features = head.features(net.run_path(block, choice, net.enter(x) if block == 0 else x))
            optimizer.zero_grad()
            functional.cross_entropy(linear(features.float()), labels.to(features.device)).backward()
            optimizer.step()
    return nn.Sequential(head.fix, head.pool, linear).requires_grad_(False)
