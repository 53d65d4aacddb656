"""Ratings of a model's smaller units against the model itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call, Pick, pick_output
from pynas.compress.net import UnitNet
from pynas.compress.pieces import captured, side_of, tail_after
from pynas.errors import InputError
from pynas.rating import Progress, Scores, losses
from pynas.rating import rate as rate_paths
from pynas.teachers.tail import Tail


@torch.no_grad()
def rate(
    net: UnitNet,
    batches: Iterable[Any],
    loss: str | Callable[[Tensor, Any], Tensor] | None = None,
    through_tail: bool = True,
    *,
    labels: Callable[[Any], Any] | None = None,
    pick: Pick = pick_output,
    norm: str = "running",
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Scores:
    """Score every path of every block by what it changes in the model; 0 is no change. Lower is better.

    A block's input is the model's own feature there. Its paths' outputs pass through the rest of the model (`through_tail`)
    and are compared with the model's output, or are compared with the model's feature after the block.

    Args:
        net: supernet of a plan. batches: as the model takes them; a list, or anything that can be gone through for each block.
        loss: as in `pynas.rate`. None for that of `default_loss`, or "relative_l1" of features.
        labels: called with a batch, returns the target of a loss against labels ("cross_entropy", "error").
        pick: called with the model's output and the call, returns the tensor that is compared (`pick_output`).
        norm: statistics of batch norm, as in `pynas.rate`. progress: called a few times per second, over all blocks.
        settings: fields of `pynas.rating.Settings`.

    Raises:
        InputError: no batch, a loss against labels without them, a model whose output needs more than the feature after a
            block, scores that are not finite.
    """
    batches = batches if isinstance(batches, Sequence) else list(batches)
    if not batches:
        raise InputError("[compress] expected at least one batch to rate on, got none")
    check_loss(loss, labels)
    if loss is None:
        loss = default_loss(net.model, net.call, pick) if through_tail else "relative_l1"
    units = [parts.unit for block in net.blocks for parts, _ in block]
    tables, total = [], sum(net.space.path_counts) * len(batches)
    for number, block in enumerate(net.blocks):
        own = [parts.unit for parts, _ in block]
        tail = tail_after(net.model, own[-1], units, net.call, pick) if through_tail else None
        made = _Batches(net, own, batches, tail, pick, labels)
        report = _after(progress, sum(net.space.path_counts[:number]) * len(batches), total)
        with warnings.catch_warnings():
            # Models that look at their masks give the same for each path: the tail is slower so, and the user can do nothing.
            warnings.filterwarnings("ignore", r"\[rate\] not known to keep .* one at a time through: Tail")
            tables.append([rate_paths(net.layers(number), made, loss, norm, tail=tail, progress=report, **settings)])
    metadata = {"loss": loss if isinstance(loss, str) else "own", "through_tail": through_tail}
    return Scores(net.space, tables, metadata)


def _after(progress: Callable[[Progress], None] | None, before: int, total: int) -> Callable[[Progress], None] | None:
    """Return the report of one block's progress: that of all blocks, of which some are done."""
    if progress is None:
        return None
    return lambda own: progress(replace(own, done=before + own.done, total=total))


class _Batches:
    """Batches of one block, made as they are asked for: input of its first unit, target, side inputs."""

    def __init__(
        self, net: UnitNet, units: Sequence[Any], batches: Sequence[Any], tail: Tail | None, pick: Pick, labels: Any
    ):
        self._net, self._units, self._batches, self._tail, self._pick, self._labels = (
            net,
            units,
            batches,
            tail,
            pick,
            labels,
        )

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return map(self._of, self._batches)

    @torch.no_grad()  # not around a `yield`, which would leave the caller without gradients where it stops half-way
    def _of(self, batch: Any) -> tuple[Any, ...]:
        call = Call.of(batch, self._net.model)
        calls, (feature,), output = captured(self._net.model, self._units, call, self._tail is not None)
        target = feature if self._tail is None else self._pick(output, call)
        if self._labels is not None:
            target = self._labels(batch)
        model = call if self._tail is not None and self._tail.needs_side else None
        side = side_of(calls, self._units, model)
        x = self._units[0].feature(calls[0])
        return (x, target) if side is None else (x, target, side)


def default_loss(model: nn.Module, call: Call, pick: Pick = pick_output) -> str:
    """Return "kl" where a model's output is logits `[B, K]` or `[B, T, K]`: named so, or one vector per sample; else "cosine".

    "mse" for logits of another form: one number per sample, or a map for each class.
    """
    with torch.no_grad():
        output = call(model)
    named = isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor) and pick is pick_output
    if not named and not (isinstance(output, Tensor) and output.ndim == 2):
        return "cosine"
    picked = pick(output, call)
    return "kl" if picked.ndim in (2, 3) and picked.shape[-1] > 1 else "mse"


def check_loss(loss: str | Callable[[Tensor, Any], Tensor] | None, labels: Callable[[Any], Any] | None) -> None:
    """Raise InputError for an unknown loss, and for a loss against labels without them."""
    if loss is not None:
        losses.resolve(loss)
    if isinstance(loss, str) and loss in losses.LABELS and labels is None:
        raise InputError(
            f"[compress] expected a loss against the model's output, or labels= with {loss}, got no labels"
        )
