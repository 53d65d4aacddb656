"""A search's request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pynas.runs.limits import Share, read_limits


@dataclass(frozen=True)
class Request:
    """A search's request: limits and lower limits by cost, how many architectures, and how block scores join.

    Limits are given as numbers, or as text that `pynas.runs.limits.read_limit` reads, such as "60%"; those that are no
    limits are left out. Without any limit the search is unlimited.

    front: a cost, to find the whole Pareto front of score and this cost too. costs: a CSV file with the user's own costs.
    trained: a CSV file of trained networks' accuracies, which the block weights are fitted to.
    """

    limits: Mapping[str, float | Share] = field(default_factory=dict)
    at_least: Mapping[str, float | Share] = field(default_factory=dict)
    top_k: int = 5
    weights: Sequence[float] | None = None
    join: str = "sum"
    front: str | None = None
    costs: Path | None = None
    trained: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", read_limits(self.limits))
        object.__setattr__(self, "at_least", read_limits(self.at_least, lower=True))

    @property
    def named_costs(self) -> set[str]:
        """Costs that the request names."""
        return {*self.limits, *self.at_least, *([self.front] if self.front else [])}
