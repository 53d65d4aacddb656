"""DNA's algorithm 2 (traversal search) as printed: the baseline of tests and benchmarks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np


def algorithm_2(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], limit: float, seconds: float = math.inf
) -> tuple[list[int] | None, bool]:
    """The choice of least loss with a total cost of `limit` or less, and whether the search finished in time.

    losses[b] `[n_b]`, costs[b] `[n_b]`. Every block's pool is sorted by loss; an option over the budget is skipped, and
    the last block stops at the first that fits. Of equal losses the last one met wins. None where nothing fits.
    """
    order = [np.argsort(block, kind="stable") for block in losses]
    loss_of = [block[o].tolist() for block, o in zip(losses, order)]
    cost_of = [block[o].tolist() for block, o in zip(costs, order)]
    last = len(losses) - 1
    best, model = math.inf, None
    chosen = [0] * len(losses)
    stop = time.perf_counter() + seconds

    def search_block(b: int, size_before: float, loss_before: float) -> None:
        nonlocal best, model
        if time.perf_counter() > stop:
            raise TimeoutError
        for i, (loss, cost) in enumerate(zip(loss_of[b], cost_of[b])):
            size = size_before + cost
            if size > limit:
                continue
            chosen[b] = i
            if b == last:
                if loss_before + loss <= best:
                    best, model = loss_before + loss, chosen.copy()
                break
            search_block(b + 1, size, loss_before + loss)

    try:
        search_block(0, 0, 0.0)
        finished = True
    except TimeoutError:
        finished = False
    return None if model is None else [int(order[b][i]) for b, i in enumerate(model)], finished
