"""Certificate of an exact search: the size of its problem, its work, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """Proof of the answer: the search ended with no choice left that could be better, so the gap is 0.

    space_size: number of choices, limits aside, exact.
    visited: partial choices and tree nodes that were looked at. pruned: options and partial choices left out with proof.
    lower_bound: loss that no choice within the limits goes below.
    relaxation: Lagrangian bound at the start of the search. multipliers: its multipliers, per cost the loss per unit of the
        upper and of the lower limit.
    """

    space_size: int
    visited: int
    pruned: int
    lower_bound: float
    relaxation: float
    multipliers: tuple[tuple[float, float], ...]
    gap: float = 0.0

    def __str__(self) -> str:
        return (
            f"optimal (gap {self.gap:g}): {self.space_size:,} choices, {self.visited:,} visited, "
            f"{self.pruned:,} pruned, no loss below {self.lower_bound:.6g} (relaxation {self.relaxation:.6g})"
        )
