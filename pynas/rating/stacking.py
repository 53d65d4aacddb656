"""How many parents to stack on the batch axis at each depth."""

from __future__ import annotations

from collections.abc import Sequence

from pynas.errors import InputError

# On a CPU a stack's features should stay in a core's cache, also where a candidate widens them several times.
_CACHE_BYTES = 1 << 18
# A larger stack must be faster by this factor to be preferred when measured.
_GAIN = 0.95
_TRIALS = 2


class Stacking:
    """The stack size of each depth.

    At each depth a stack takes at most a share of `max_bytes`: its features, the children that wait for theirs to be
    full, and the copy that joins them. widths: nodes per depth, root and leaves included.
    stack: "memory" (as many as fit the budget: a GPU), "cache" (as many as a core's cache holds: a CPU; every run takes
    the same, so results repeat to the bit), "measure" (doubles as long as that makes a path cheaper) or a number.
    """

    def __init__(self, widths: Sequence[int], max_bytes: int, stack: str | int) -> None:
        self._widths, self._stack = list(widths), stack
        self._share = max_bytes // (3 * len(self._widths))
        self._most = list(self._widths)
        self._measured = [_Measured(width) for width in self._widths]

    def limit(self, depth: int, size: int) -> int:
        """Parents to stack at a depth where a feature takes `size` bytes."""
        size = max(size, 1)
        most = max(1, min(self._most[depth], self._share // size))
        if self._stack == "memory":
            return most
        if self._stack == "cache":
            return max(1, min(most, _CACHE_BYTES // size))
        return min(most, self._measured[depth].size if self._stack == "measure" else int(self._stack))

    def timed(self, depth: int, paths: int, children: int, seconds: float) -> None:
        """All candidates of the layer ran on a stack of so many paths and gave so many children."""
        if self._stack == "measure":
            self._measured[depth].timed(paths, seconds / children)

    def too_large(self, depth: int, paths: int) -> None:
        """Memory ran out with so many paths: use half of them from now on."""
        self._most[depth] = max(1, min(self._most[depth], paths // 2))


class _Measured:
    """The stack size of one depth by trial."""

    def __init__(self, width: int) -> None:
        self.size, self._width, self._settled = 1, width, False
        self._seconds: dict[int, list[float]] = {}

    def timed(self, paths: int, seconds: float) -> None:
        if self._settled or paths != self.size:
            return
        times = self._seconds.setdefault(paths, [])
        times.append(seconds)
        if len(times) < _TRIALS:
            return
        smaller = self._seconds.get(paths // 2)
        if smaller and min(times) > _GAIN * min(smaller):
            self.size, self._settled = paths // 2, True
        elif 2 * paths > self._width:
            self._settled = True
        else:
            self.size = 2 * paths


def check_stack(stack: str | int | None) -> None:
    """A known way to stack.

    Raises:
        InputError: anything else.
    """
    if stack not in (None, "memory", "cache", "measure") and not (isinstance(stack, int) and stack >= 1):
        raise InputError(f"[rate] expected stack to be 'memory', 'cache', 'measure' or at least 1, got {stack!r}")
