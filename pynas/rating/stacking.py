"""How many parents to stack on the batch axis at each depth: measured on a CPU, as many as fit on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

# A larger stack must be faster by this factor to be preferred.
_GAIN = 0.95
_TRIALS = 2


class Stacking:
    """The stack size of each depth, from what was seen so far.

    widths: nodes per depth, root and leaves included. At each depth a stack takes at most a share of `max_bytes`:
    its features, the children that wait for theirs to be full, and the copy that joins them.
    On a GPU the share is filled. On a CPU the size doubles as long as that makes a path cheaper.
    """

    def __init__(self, widths: Sequence[int], max_bytes: int, measure: bool) -> None:
        self._widths, self._measure = list(widths), measure
        self._share = max_bytes // (3 * len(self._widths))
        self._bytes = [0] * len(self._widths)
        self._most = list(self._widths)
        self._size = [1] * len(self._widths)
        self._settled = [not measure] * len(self._widths)
        self._seconds: list[dict[int, list[float]]] = [{} for _ in self._widths]

    def limit(self, depth: int) -> int:
        """Parents to stack at a depth."""
        if not self._bytes[depth]:
            return 1
        most = max(1, min(self._most[depth], self._share // self._bytes[depth]))
        return min(self._size[depth], most) if self._measure else most

    def learn(self, depth: int, bytes_per_path: int) -> None:
        """A feature at this depth takes so much."""
        self._bytes[depth] = max(self._bytes[depth], bytes_per_path)

    def timed(self, depth: int, paths: int, children: int, seconds: float) -> None:
        """All candidates of the layer ran on a stack of so many paths and gave so many children."""
        size = self._size[depth]
        if self._settled[depth] or paths != size:
            return
        times = self._seconds[depth].setdefault(size, [])
        times.append(seconds / children)
        if len(times) < _TRIALS:
            return
        smaller = self._seconds[depth].get(size // 2)
        if smaller and min(times) > _GAIN * min(smaller):
            self._size[depth], self._settled[depth] = size // 2, True
        elif 2 * size > self._widths[depth] or self._share < 2 * size * self._bytes[depth]:
            self._settled[depth] = True
        else:
            self._size[depth] = 2 * size

    def too_large(self, depth: int, paths: int) -> None:
        """Memory ran out with so many paths: use half of them from now on."""
        self._most[depth] = max(1, min(self._most[depth], paths // 2))
