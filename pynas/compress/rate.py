"""Ratings of a model's smaller units against the model itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pynas.calls import Call
from pynas.compress.net import UnitNet
from pynas.compress.pieces import Tail, captured, side_of
from pynas.errors import InputError
from pynas.rating import Progress, Scores
from pynas.rating import rate as rate_paths

Pick = Callable[[Any, Call], Tensor]


def pick_output(output: Any, call: Call) -> Tensor:
    """Return the tensor of a model's output that losses compare: logits, else the last hidden state, else the first tensor.

    Positions that the call's attention mask leaves out are 0.

    Raises:
        InputError: an output without one.
    """
    if isinstance(output, Mapping):
        names = [name for name in ("logits", "last_hidden_state") if isinstance(output.get(name), Tensor)]
        output = output[names[0]] if names else tuple(output.values())
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"[compress] expected an output with a tensor, got {type(output).__name__}; pass pick=")
    mask = call.kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and output.ndim > 2 and mask.shape == output.shape[:2]:
        output = output * mask.view(*mask.shape, *[1] * (output.ndim - 2)).to(output.dtype)
    return output


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
        loss: as in `pynas.rate`. None for "kl" of logits, "cosine" of other outputs, "relative_l1" of features.
        labels: called with a batch, returns the target of a loss against labels ("cross_entropy", "error").
        pick: called with the model's output and the call, returns the tensor that is compared (`pick_output`).
        norm: statistics of batch norm, as in `pynas.rate`. settings: fields of `pynas.rating.Settings`.

    Raises:
        InputError: no batch, a model whose output needs more than the feature after a block, scores that are not finite.
    """
    batches = batches if isinstance(batches, Sequence) else list(batches)
    if not batches:
        raise InputError("[compress] expected at least one batch to rate on, got none")
    output = pick(net.call(net.model), net.call)
    if loss is None:
        loss = ("kl" if _is_logits(net, output) else "cosine") if through_tail else "relative_l1"
    units = [parts.unit for block in net.blocks for parts, _ in block]
    tables = []
    for number, block in enumerate(net.blocks):
        own = [parts.unit for parts, _ in block]
        tail = Tail(net.model, own[-1], units, net.call, pick) if through_tail else None
        made = _Batches(net, own, batches, tail, pick, labels)
        layers = net.layers(number)
        with warnings.catch_warnings():
            # Models that look at their masks give the same for each path: the tail is slower so, and the user can do nothing.
            warnings.filterwarnings("ignore", r"\[rate\] not known to keep .* one at a time through: Tail")
            tables.append([rate_paths(layers, made, loss, norm, tail=tail, progress=progress, **settings)])
    metadata = {"loss": loss if isinstance(loss, str) else "own", "through_tail": through_tail}
    return Scores(net.space, tables, metadata)


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
        with torch.no_grad():
            for batch in self._batches:
                call = Call.of(batch, self._net.model)
                calls, feature, output = captured(self._net.model, self._units, call, self._tail is not None)
                target = feature if self._tail is None else self._pick(output, call)
                if self._labels is not None:
                    target = self._labels(batch)
                model = call if self._tail is not None and self._tail.needs_side else None
                side = side_of(calls, self._units, model)
                x = self._units[0].feature(calls[0])
                yield (x, target) if side is None else (x, target, side)


def _is_logits(net: UnitNet, output: Tensor) -> bool:
    """Whether an output has one value per class or token: the model has a last layer of so many outputs."""
    result = net.call(net.model)
    return (isinstance(result, Mapping) and "logits" in result) or output.ndim == 2
