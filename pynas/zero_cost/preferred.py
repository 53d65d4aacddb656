"""Preferred spaces: the architectures that a selector chose, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pynas.errors import InfeasibleError, InputError
from pynas.files import header, read_json, write_json
from pynas.spaces import Architecture, Space

_KIND = "pynas.preferred"


@dataclass(frozen=True)
class Preferred:
    """One preferred architecture: the interval [low, high) of the cost it was chosen in, its scores and its costs.

    normalised: eq. 13; None in spaces whose selection skips it.
    """

    architecture: Architecture
    interval: tuple[float, float]
    snip: float
    normalised: float | None
    costs: Mapping[str, float]

    def as_dict(self, space: Space) -> dict[str, Any]:
        """For JSON, with the architecture also in the field's words."""
        words = {} if space.describe is None else space.describe(space, self.architecture)
        return {"architecture": space.format(self.architecture), **words, "interval": list(self.interval),
                "snip": self.snip, "normalised": self.normalised, **self.costs}  # fmt: skip


@dataclass(frozen=True)
class PreferredSpace:
    """Preferred architectures by rising cost, and how they were chosen."""

    space: Space
    cost: str
    interval: float
    members: tuple[Preferred, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.members)

    def under(self, limits: Mapping[str, float]) -> list[Preferred]:
        """The members that keep every limit, by falling cost.

        Raises:
            InputError: a cost that is not known.
            InfeasibleError: none keeps them.
        """
        for name in limits:
            if name not in self.members[0].costs:
                raise InputError(f"[preferred] expected limits of {', '.join(self.members[0].costs)}, got {name!r}")
        kept = [one for one in self.members if all(one.costs[name] <= limit for name, limit in limits.items())]
        if not kept:
            least = {name: min(one.costs[name] for one in self.members) for name in limits}
            raise InfeasibleError(f"[preferred] expected limits that an architecture keeps, got {dict(limits)}; "
                                  f"the least are {least}")  # fmt: skip
        return sorted(kept, key=lambda one: -one.costs[self.cost])


def save_preferred(path: str | Path, preferred: PreferredSpace) -> dict[str, Any]:
    """Write a versioned JSON document, atomically; gives its content."""
    content = header(_KIND, space=preferred.space.name, **preferred.metadata) | {
        "cost": preferred.cost,
        "interval": preferred.interval,
        "space_size": preferred.space.size,
        "architectures": [one.as_dict(preferred.space) for one in preferred.members],
    }
    write_json(path, content)
    return content


def load_preferred(path: str | Path, space: Space) -> PreferredSpace:
    """Read what `save_preferred` wrote.

    Raises:
        InputError: missing, malformed, of another version or another space.
    """
    content = read_json(path, _KIND)
    metadata = dict(content["metadata"])
    if metadata.pop("space") != space.name:
        raise InputError(f"[preferred] expected architectures of {space.name}, got those of "
                         f"{content['metadata']['space']} in {path}")  # fmt: skip
    members = []
    for entry in content["architectures"]:
        low, high = entry["interval"]
        one = Preferred(space.parse(entry["architecture"]), (low, high), entry["snip"], entry["normalised"], {})
        # What else an entry says are its costs.
        costs = {name: value for name, value in entry.items() if name not in one.as_dict(space)}
        members.append(replace(one, costs=costs))
    return PreferredSpace(space, content["cost"], content["interval"], tuple(members), metadata)
