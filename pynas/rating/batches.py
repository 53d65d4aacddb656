"""Batches of a rating: their checks, and the groups that share one walk of the tree."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pynas.errors import InputError
from pynas.rating import norms
from pynas.rating.norms import Streams
from pynas.rating.sides import check_side, tensors_of
from pynas.rating.tree import Node, PathTree

# Batches that share one walk, and one pass of the calibration batches, in `recalibrate` mode.
_GROUP = 8


class Batch(NamedTuple):
    """Input `[B, ...]`, target, and side input; None where there is none."""

    x: Tensor
    target: Any
    side: Any = None


class LeafRows:
    """Indices of leaves in a vector of scores; those on a GPU are kept there, as sending them waits for it."""

    def __init__(self) -> None:
        self._sent: dict[tuple[torch.device, bytes], Tensor] = {}

    def __call__(self, leaves: Sequence[Node], device: torch.device, first: int = 0) -> list[int] | slice | Tensor:
        """Index of these leaves, in their order, where the vector is on `device` and begins with path number `first`."""
        rows = [leaf.start - first for leaf in leaves]
        step = rows[1] - rows[0] if len(rows) > 1 else 1
        if step > 0 and rows == list(range(rows[0], rows[-1] + 1, step)):
            return slice(rows[0], rows[-1] + 1, step)
        if device.type == "cpu":
            return rows
        key = device, array("q", rows).tobytes()
        if key not in self._sent:
            self._sent[key] = torch.tensor(rows, device=device)
        return self._sent[key]


def check_calibration(
    norm: str, tail_norm: str, calibration: Iterable[Tensor | tuple[Tensor, Any]] | None
) -> tuple[Streams, list[Any]]:
    """Return the calibration batches and their side inputs where a norm mode needs them, else none.

    Raises:
        InputError: an unknown norm mode; batches that are missing or not tensors with samples; a bad side.
    """
    needed = "recalibrate" in (norm, tail_norm)
    for mode in (norm, tail_norm):
        if mode not in norms.MODES:
            raise InputError(f"[rate] expected norm to be one of {', '.join(norms.MODES)}, got {mode!r}")
    inputs = list(calibration) if calibration is not None and needed else []
    if needed and not inputs:
        raise InputError("[rate] expected calibration batches for norm='recalibrate', got none; pass calibration=")
    pairs: list[Any] = [each if isinstance(each, (tuple, list)) and len(each) == 2 else (each, None) for each in inputs]
    for x, side in pairs:
        if not isinstance(x, Tensor) or x.ndim == 0 or not len(x):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"[rate] expected calibration batches that are input tensors with samples, got {got}")
        check_side(side, len(x))
    return [x for x, _ in pairs], [side for _, side in pairs]


def check_finite(values: Tensor, tree: PathTree, first: int = 0) -> None:
    """Check that values `[..., paths]`, which begin with the tree's path number `first`, are finite.

    Raises:
        InputError: naming a path whose score is infinite or not a number.
    """
    wrong = (~values.isfinite()).reshape(-1, values.shape[-1]).any(0).nonzero()
    if len(wrong):
        row = int(wrong[0])
        path = tuple(int(choice) for choice in tree.paths[first + row])
        column = values.reshape(-1, values.shape[-1])[:, row]
        value = column[~column.isfinite()][0].item()
        raise InputError(
            f"[rate] expected finite scores, got {value} for the path {path} ({len(wrong)} of {values.shape[-1]} paths)"
        )


def groups(batches: Iterable[Any], several: bool, max_bytes: int) -> Iterator[list[Batch]]:
    """Split batches into groups that share one walk: one batch each, or `several` within a small part of the budget.

    Raises:
        InputError: a batch that is not (input, target) or (input, target, side), has no samples or a bad side.
    """
    most = _GROUP if several else 1
    group: list[Batch] = []
    for batch in batches:
        group.append(_check_batch(batch))
        if len(group) == most or _nbytes([(each.x, each.side) for each in group]) > max_bytes // 64:
            yield group
            group = []
    if group:
        yield group


class Source:
    """Batches, of which those seen are kept so that a rating can begin again, up to `max_bytes` and until `forget`."""

    def __init__(self, batches: Iterable[Any], max_bytes: int) -> None:
        self._batches, self._rest, self._room = batches, iter(batches), max_bytes
        self._seen: list[Any] | None = None if isinstance(batches, Sequence) else []

    def __iter__(self) -> Iterator[Any]:
        for batch in self._rest:
            if self._seen is not None:
                self._seen.append(batch)
                self._room -= _nbytes(batch)
                if self._room < 0:
                    self.forget()
            yield batch

    def forget(self) -> None:
        """Keep no batches any more."""
        self._seen = None

    def everything(self, found: Exception) -> list[Batch]:
        """Return all batches from the first one, for a rating that begins again because of `found`.

        Raises:
            InputError: batches that are gone.
        """
        if isinstance(self._batches, Sequence):
            return [_check_batch(batch) for batch in self._batches]
        if self._seen is None:
            raise InputError(f"[rate] expected modules without state, got one late in a rating: {found}; "
                             "pass the batches as a list, so that each path can be rated alone")  # fmt: skip
        return [_check_batch(batch) for batch in (*self._seen, *self._rest)]


def _check_batch(batch: Any) -> Batch:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3) or not isinstance(batch[0], Tensor):
        raise InputError(
            f"[rate] expected batches of (input tensor, target) or (input tensor, target, side), got {type(batch).__name__}"
        )
    if batch[0].ndim == 0 or not len(batch[0]):
        raise InputError(f"[rate] expected an input with samples on its first axis, got {tuple(batch[0].shape)}")
    return Batch(batch[0], batch[1], check_side(batch[2], len(batch[0])) if len(batch) > 2 else None)


def _nbytes(values: Any) -> int:
    return sum(x.nbytes for x in tensors_of(values))
