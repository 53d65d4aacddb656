"""Preferred spaces: the architectures that a selector chose, and their file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.spaces import Architecture, Space

_KIND = "pynas.preferred"


@dataclass(frozen=True)
class Preferred:
    """A preferred architecture with its scores and costs, and the interval [low, high) of the cost that it was chosen in.

    snip: score of eq. 4. normalised: score of eq. 13; None in spaces whose selection skips it.
    """

    architecture: Architecture
    interval: tuple[float, float]
    snip: float
    normalised: float | None
    costs: Mapping[str, float]

    def as_dict(self, space: Space) -> dict[str, Any]:
        """Content for JSON: the architecture's string form and named choices, the interval, the scores and the costs."""
        choices = {} if space.describe is None else space.describe(space, self.architecture)
        return {"architecture": space.format(self.architecture), **choices, "interval": list(self.interval),
                "snip": self.snip, "normalised": self.normalised, **self.costs}  # fmt: skip


@dataclass(frozen=True)
class PreferredSpace:
    """Preferred architectures in order of rising cost, and the settings of their selection."""

    space: Space
    cost: str
    interval: float
    members: tuple[Preferred, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.members)


def save_preferred(path: str | Path, preferred: PreferredSpace) -> dict[str, Any]:
    """Write a versioned JSON document, atomically, and return its content."""
    content = header(_KIND, space=preferred.space.name, **preferred.metadata) | {
        "cost": preferred.cost,
        "interval": preferred.interval,
        "space_size": preferred.space.size,
        "architectures": [member.as_dict(preferred.space) for member in preferred.members],
    }
    write_json(path, content)
    return content


def load_preferred(path: str | Path, space: Space) -> PreferredSpace:
    """Read a file that `save_preferred` wrote.

    Raises:
        InputError: a file that is missing, malformed, of another version or of another space.
    """
    content = read_json(path, _KIND)
    metadata = dict(content["metadata"])
    if metadata.pop("space") != space.name:
        raise InputError(f"[preferred] expected architectures of {space.name}, got those of "
                         f"{content['metadata']['space']} in {path}")  # fmt: skip
    members = []
    for entry in content["architectures"]:
        low, high = entry["interval"]
        member = Preferred(space.parse(entry["architecture"]), (low, high), entry["snip"], entry["normalised"], {})
        # All other values of an entry are costs.
        costs = {name: value for name, value in entry.items() if name not in member.as_dict(space)}
        members.append(replace(member, costs=costs))
    return PreferredSpace(space, content["cost"], content["interval"], tuple(members), metadata)
