"""Path samplers: which candidate each layer of a cell runs in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def uniform_path(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """One candidate per layer, independently and uniformly (single path one-shot; DNA, section 3.3).

    counts: candidates per layer, `[L]`.
    """
    return tuple(int(c) for c in rng.integers(0, counts))
