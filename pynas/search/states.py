"""Links between the options of neighbouring blocks, by boundary states (HyTra's scale, nats-size's width)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pynas.errors import InfeasibleError, InputError


@dataclass(frozen=True)
class Links:
    """Options that lie on some whole choice, with states numbered from 0 at each boundary.

    rows `[N']`: option of each row, ascending in each block; an option that can follow several states has several rows.
    offsets `[B+1]`: first row of each block. state_in, state_out `[N']`: states in 0..states-1; the first block starts in 0,
    and the last one ends in 0.
    """

    rows: np.ndarray
    offsets: np.ndarray
    state_in: np.ndarray
    state_out: np.ndarray
    states: int

    def count(self) -> int:
        """Number of whole choices, exact."""
        ways = {0: 1}
        for begin, end in itertools.pairwise(self.offsets.tolist()):
            pairs, times = np.unique(
                np.stack([self.state_in[begin:end], self.state_out[begin:end]]), axis=1, return_counts=True
            )
            onward: dict[int, int] = {}
            for start, stop, n in zip(*pairs.tolist(), times.tolist()):
                onward[stop] = onward.get(stop, 0) + ways[start] * n
            ways = onward
        return sum(ways.values())


def unlinked(offsets: np.ndarray) -> Links:
    """Return links without states: every option follows every option."""
    none = np.zeros(offsets[-1], np.int64)
    return Links(np.arange(offsets[-1]), offsets, none, none, 1)


def link(
    name: str, offsets: np.ndarray, state_in: np.ndarray, state_out: np.ndarray, follows: np.ndarray | None = None
) -> Links:
    """Find the options that lie on some whole choice, and link them.

    state_in, state_out: int `[N]`; the first block's state_in and the last one's state_out are free.
    follows: bool `[S, S]`, whether an option with state_in t may come after one with state_out s, at `[s, t]`; None: where
    the two are equal.

    Raises:
        InputError: states of another length or outside `follows`.
        InfeasibleError: no whole choice connects.
    """
    for argument, state in (("state_in", state_in), ("state_out", state_out)):
        if state.shape != (offsets[-1],) or not np.issubdtype(state.dtype, np.integer):
            got = f"{state.dtype} {list(state.shape)}"
            raise InputError(f"[{name}] expected {argument} as an integer per option, [{offsets[-1]}], got {got}")
        if follows is not None and not ((state >= 0) & (state < len(follows))).all():
            raise InputError(f"[{name}] expected {argument} in 0..{len(follows) - 1}, got {state.min()}..{state.max()}")
    if follows is not None and (np.ndim(follows) != 2 or follows.shape[0] != follows.shape[1]):
        raise InputError(f"[{name}] expected follows of the shape [S, S], got {list(np.shape(follows))}")
    parts = _forward(name, offsets, state_in, state_out, follows)
    _trim_backward(parts)
    return _numbered(parts)


# Per block: rows, the state that the block before left for each, and the state that each leaves.
_Parts = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _forward(name, offsets, state_in, state_out, follows) -> _Parts:
    parts: _Parts = []
    before = np.zeros(1, np.int64)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        if b == 0:
            meets = np.ones((end - begin, 1), bool)
        elif follows is None:
            meets = state_in[begin:end, None] == before
        else:
            meets = follows[before][:, state_in[begin:end]].T.astype(bool)
        option, which = np.nonzero(meets)
        if len(option) == 0:
            raise InfeasibleError(
                f"[{name}] no choice connects: block {b - 1} ends in the states {before.tolist()}, and block {b} "
                f"starts in {np.unique(state_in[begin:end]).tolist()}"
            )
        rows = begin + option
        leaves = state_out[rows] if b < len(offsets) - 2 else np.zeros(len(rows), np.int64)
        parts.append((rows, before[which], leaves))
        before = np.unique(leaves)
    return parts


def _trim_backward(parts: _Parts) -> None:
    for b in range(len(parts) - 2, -1, -1):
        kept = np.isin(parts[b][2], parts[b + 1][1])
        parts[b] = tuple(array[kept] for array in parts[b])  # type: ignore[assignment]


def _numbered(parts: _Parts) -> Links:
    starts, stops, states = [], [], 1
    for _, start, stop in parts:
        values, number = np.unique(start, return_inverse=True)
        starts.append(number)
        states = max(states, len(values))
        stops.append(np.unique(stop, return_inverse=True)[1])
    return Links(
        np.concatenate([rows for rows, _, _ in parts]),
        np.cumsum([0, *(len(rows) for rows, _, _ in parts)]),
        np.concatenate(starts).astype(np.int64),
        np.concatenate(stops).astype(np.int64),
        states,
    )
