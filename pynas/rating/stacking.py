"""Number of paths to stack on the batch axis, at each depth of the tree."""

from __future__ import annotations

from collections.abc import Sequence

# On a CPU a stack's features should stay in a core's cache with what candidates make of them inside.
_CACHE_BYTES = 1 << 20
# Candidates that widen the features by more get stacks as if they widened them by this.
_WIDEST = 4


class Stacking:
    """Stack size of each depth.

    A stack takes at most a share of `max_bytes` at its depth: its features, the children that wait to fill their own stack,
    and the copy that joins them. widths: nodes per depth, root and leaves included.
    stack: "memory" (as many paths as fit the budget), "cache" (as many as fit a core's cache) or a number. None of them
    depends on time, so results repeat to the bit.
    """

    def __init__(self, widths: Sequence[int], max_bytes: int, stack: str | int) -> None:
        self._stack, self._most = stack, list(widths)
        self._share = max_bytes // (3 * len(self._most))

    def limit(self, depth: int, size: int, widening: float) -> int:
        """Parents to stack at a depth where a feature takes `size` bytes; inside, candidates have `widening` times its channels."""
        size = max(size, 1)
        most = max(1, min(self._most[depth], self._share // size))
        if self._stack == "memory":
            return most
        cached = int(_CACHE_BYTES / (size * min(max(widening, 1), _WIDEST)))
        return max(1, min(most, cached if self._stack == "cache" else int(self._stack)))

    def too_large(self, depth: int, paths: int) -> None:
        """Halve the stack of a depth, after memory ran out with so many paths."""
        self._most[depth] = max(1, min(self._most[depth], paths // 2))
