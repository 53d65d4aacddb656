"""Command lines that repeat a run, from its files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from pynas.costs.count import NAMES
from pynas.quantities import is_time
from pynas.runs.request import WORKLOAD
from pynas.runs.settings import Settings

# Costs that need no file of the user's.
_KNOWN = {*NAMES, "log_width"}


def train_command(settings: Settings, folder: str) -> str:
    """Return `pynas train` with every setting, the defaults too, as these may change between versions."""
    words = ["pynas", "train", "--run", folder]
    for name, value in settings.model_dump().items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value == [] or (name == "val_fraction" and settings.val_images is not None):
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, Mapping):
            for key, setting in value.items():
                words += [f"--{name.removesuffix('s')}", f"{key}={_yaml(setting)}"]
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """Write a value in one line that YAML reads back alike: of nested numbers, 1e-05 would be a text."""
    if isinstance(value, Mapping | list | tuple):
        return yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False).strip()
    return json.dumps(value)


def rate_command(metadata: Mapping[str, Any], folder: str) -> str:
    """Return `pynas rate` from the scores' metadata."""
    words = ["pynas", "rate", "--run", folder]
    for name in ("loss", "norm"):
        if name in metadata:
            words += [f"--{name}", str(metadata[name])]
    return shlex.join(words)


def search_command(content: Mapping[str, Any], folder: str) -> str:
    """Return `pynas search` from search.json."""
    words = ["pynas", "search", folder]
    for option, name in (("--limit", "limits"), ("--at-least", "at_least")):
        for cost, value in content[name].items():
            words += [option, f"{cost}={value}"]
    words += ["--top-k", str(content["top_k"]), "--join", content["join"]]
    if content["weights"] is not None:
        words += ["--weights", ",".join(map(str, content["weights"]))]
    if "prior" in content:
        weight = "auto" if content["prior"]["auto"] else str(content["prior"]["weight"])
        words += ["--prior", content["prior"]["cost"].replace("_", "-"), "--prior-weight", weight]
    if "calibrated" in content:
        words.append("--calibrated")
    if "diverse" in content:
        words += ["--diverse", str(content["diverse"]["asked"]), "--distance", str(content["diverse"]["distance"])]
    if "prices" in content:
        words.append("--prices")
    if "front" in content:
        words += ["--front", content["front"]["cost"]]
    for name in ("costs", "fix", "forbid"):
        for text in content.get(name, ()):
            words += [f"--{name}", text]
    for name in WORKLOAD:
        if content.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(content[name])]
    named = {cost for cost in (*content["limits"], *content["at_least"]) if not is_time(cost)}
    own = [] if "costs" in content else sorted(named - _KNOWN)
    return shlex.join(words) + (f" --costs THE-FILE-WITH-{'-'.join(own)}.csv" if own else "")


def export_command(architecture: str, folder: str) -> str:
    """Return `pynas export` of one architecture."""
    return shlex.join(["pynas", "export", "--run", folder, "--architecture", architecture])
