"""The naive reference: every choice there is, in exact rational arithmetic on the documented grid."""

import itertools
import math
from fractions import Fraction

import numpy as np


def on_grid(blocks):
    """Fractions, multiples of 2**-60 of the greatest total (to the next power of two); integers as they are."""
    if all(np.issubdtype(block.dtype, np.integer) for block in blocks):
        return [[int(value) for value in block] for block in blocks]
    unit = Fraction(2) ** (math.frexp(sum(float(np.abs(block).max()) for block in blocks))[1] - 60)
    return [[round(Fraction(float(v)) / unit) * unit for v in block] for block in blocks]


def rounded(total):
    return total if isinstance(total, int) else float(total)


def brute_force(losses, costs, limits, top_k, at_least=None, linked=None):
    """(indices, loss, costs) of the top_k, by (exact loss, indices); totals rounded once before they meet a limit."""
    losses = on_grid(losses)
    columns = [on_grid([block[:, d] for block in costs]) for d in range(len(limits))]
    rows = []
    for choice in itertools.product(*(range(len(block)) for block in losses)):
        if linked is not None and not all(linked(b, choice[b], choice[b + 1]) for b in range(len(choice) - 1)):
            continue
        total = [rounded(sum(column[b][i] for b, i in enumerate(choice))) for column in columns]
        if any(limit is not None and value > limit for value, limit in zip(total, limits)):
            continue
        if at_least and any(limit is not None and value < limit for value, limit in zip(total, at_least)):
            continue
        rows.append((sum(losses[b][i] for b, i in enumerate(choice)), choice, total))
    rows.sort(key=lambda row: row[:2])
    return [(list(choice), float(loss), total) for loss, choice, total in rows[:top_k]]
