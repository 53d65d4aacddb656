"""Names of costs: their headings, workloads, and what is known of costs that are renamed or joined."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from pynas.errors import InputError

# Headings of the costs that pynas measures, with their units.
UNITS = {"params": "parameters", "madds": "MAdds", "memory": "memory (bytes)", "latency": "latency (ms)",
         "non_embedding_params": "parameters beside embeddings", "madds_per_token": "MAdds per token",
         "kv_bytes": "keys and values (bytes)"}  # fmt: skip
# What a table's metadata say of each cost by its name.
_BY_NAME = ("reference", "not_additive", "fitted")
_NAME = re.compile(r"[\w.@-]+")


def cost_heading(name: str) -> str:
    """Return the heading of a cost with its unit, `latency (ms)`; of one of a workload, `latency@phone`, `latency (ms), phone`."""
    cost, _, workload = name.partition("@")
    return ", ".join(filter(None, (UNITS.get(cost, cost), workload)))


def check_apart(names: Collection[str], others: Collection[str]) -> None:
    """Raise InputError where costs that are to be joined have a name in common."""
    if set(names) & set(others):
        raise InputError(f"[costs] expected other names than {', '.join(names)}, got {', '.join(others)}; rename those of "
                         'one side, as by renamed({"latency": "latency@phone"})')  # fmt: skip


def check_renaming(known: Collection[str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of every cost, old ones for those that keep theirs.

    Raises:
        InputError: an unknown cost, a name of other characters than letters, digits and `_.@-`, or a name that stands twice.
    """
    names = {name: new.get(name, name) for name in known}
    unknown = [name for name in new if name not in known]
    if unknown:
        raise InputError(f"[costs] expected one of {', '.join(known)}, got {unknown[0]!r}")
    if len(set(names.values())) < len(names) or not all(map(_NAME.fullmatch, names.values())):
        raise InputError(
            f"[costs] expected different names of letters, digits and _ . @ -, got {', '.join(names.values())}"
        )
    return names


def rename_metadata(metadata: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of renamed costs: what concerned one cost concerns it still, the rest is kept under `of`, by name."""
    by_name = {key: {names[old]: value for old, value in metadata[key].items() if old in names}
               for key in _BY_NAME if key in metadata}  # fmt: skip
    rest = {key: value for key, value in metadata.items() if key not in (*_BY_NAME, "space")}
    earlier = rest.pop("of", {})
    of = {new: earlier.get(old, rest) for old, new in names.items()}
    return {**({"space": metadata["space"]} if "space" in metadata else {}), **by_name, "of": of}


def join_metadata(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of joined costs; of a key that both have, the second's value, joined where it goes by names."""
    both = {key: {**first[key], **second[key]} for key in (*_BY_NAME, "of") if key in first and key in second}
    return {**first, **second, **both}
