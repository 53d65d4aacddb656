"""A search's request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pynas.costs.count import NAMES
from pynas.costs.latency import NAME as LATENCY
from pynas.costs.log_width import NAME as LOG_WIDTH
from pynas.errors import InputError
from pynas.runtimes import Workload
from pynas.search.limits import Share, read_bounds
from pynas.zero_cost import AGGREGATES, PROXIES

# Fields of a request that say what the cost `latency` is measured for.
WORKLOAD = ("runtime", "batch_size", "threads")


@dataclass(frozen=True)
class Request:
    """A search's request: limits and lower limits by cost, how many architectures, and how block scores join.

    Limits are given as `pynas.search.limits.read_range` reads them, such as 4e8, "60%" and "3M..4M", whose lower ends go to
    at_least; those that are no limits are left out. Without any limit the search is unlimited.

    front: a cost, to find the whole Pareto front of score and this cost too. costs: files with the user's own costs, or one
    (`pynas.runs.own_costs.read_own`): "mine.csv", "phone=phone.csv", whose costs are then called NAME@phone.
    trained: a CSV file of trained networks' accuracies, which the block weights are fitted to.
    prior: a cost or a zero-cost proxy that the scores are joined with (`pynas.search.with_prior`), prior_weight: its weight, or
    "auto", by the agreement of the seeds. calibrated: search the scores that `pynas calibrate` fitted. fix, forbid: rules of
    `pynas.search.Rules`. diverse: find so many architectures that differ in at least `distance` layers too
    (`pynas.search.diverse`). prices: find what each limit costs too (`pynas.search.prices`).
    runtime, batch_size, threads: of the cost `latency`, see `pynas.runtimes.Workload`.
    """

    limits: Mapping[str, float | Share] = field(default_factory=dict)
    at_least: Mapping[str, float | Share] = field(default_factory=dict)
    top_k: int = 5
    weights: Sequence[float] | None = None
    join: str = "sum"
    front: str | None = None
    costs: Sequence[str | Path] = ()
    trained: Path | None = None
    prior: str | None = None
    prior_weight: float | str = "auto"
    calibrated: bool = False
    runtime: str = "torch"
    batch_size: int = 1
    threads: int | None = None
    fix: Sequence[str] = ()
    forbid: Sequence[str] = ()
    diverse: int | None = None
    distance: int | None = None
    prices: bool = False

    def __post_init__(self) -> None:
        costs = [self.costs] if isinstance(self.costs, str | Path) else self.costs or ()
        object.__setattr__(self, "costs", tuple(map(str, costs)))
        if self.prior is not None:
            object.__setattr__(self, "prior", self.prior.replace("-", "_"))
            if not self.costs:
                check_prior(self.prior)
        object.__setattr__(self, "prior_weight", _weight(self.prior_weight))
        if (self.diverse is None) != (self.distance is None):
            raise InputError("[search] expected both --diverse and --distance, the number of architectures and the least number of "
                             "layers in which they differ, or neither, got one")  # fmt: skip
        for name, bounds in zip(("limits", "at_least"), read_bounds(self.limits, self.at_least)):
            object.__setattr__(self, name, bounds)

    @property
    def needs_tables(self) -> bool:
        """Whether the request needs the scores of all paths."""
        wishes = (self.front, self.weights, self.trained, self.prior, self.diverse)
        return self.calibrated or self.prices or any(wish is not None for wish in wishes)

    def workload(self, device: torch.device) -> Workload:
        """Return what the cost `latency` is measured for, on a run's device."""
        return Workload(self.runtime, device, self.batch_size, self.threads)

    @property
    def named_costs(self) -> set[str]:
        """Costs that the request names."""
        return {
            *self.limits,
            *self.at_least,
            *([self.front] if self.front else []),
            *([self.prior] if self.prior else []),
        }


def check_prior(prior: str, costs: Iterable[str] = ()) -> None:
    """Refuse what is no prior: neither a cost, of a run or of the user's file, nor a proxy.

    Raises:
        InputError: an unknown name.
    """
    known = [*dict.fromkeys([*costs, *NAMES, LATENCY, LOG_WIDTH, *PROXIES, *AGGREGATES])]
    if prior not in known:
        raise InputError(f"[search] expected --prior {', '.join(known)}, got {prior!r}")


def _weight(value: Any) -> float | str:
    """Read the weight of a prior.

    Raises:
        InputError: neither "auto" nor a finite number of at least 0.
    """
    try:
        weight = value if value == "auto" else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if weight != "auto" and not 0 <= weight < math.inf:
        raise InputError(f"[search] expected --prior-weight auto or a number of 0 or more, got {value!r}")
    return weight


def request_of(content: Mapping[str, Any]) -> Request:
    """Return the request of the search that wrote this content of search.json: its limits, rules and costs."""
    names = ("limits", "at_least", "weights", "join", "costs", "fix", "forbid", *WORKLOAD)
    return Request(**{name: content[name] for name in names if name in content})
