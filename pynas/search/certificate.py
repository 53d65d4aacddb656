"""What an exact search says about its own work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """How the answer was proven: the search ended with nothing left that could be better, so the gap is 0.

    space_size: number of choices, limits aside, exact. visited: partial choices and tree nodes looked at. pruned:
    options and partial choices left out with proof. lower_bound: no choice within the limits has less loss. relaxation:
    the Lagrangian bound where the search began, with these multipliers: per cost, loss per unit of its upper and of its
    lower limit.
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
