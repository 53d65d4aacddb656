"""Costs of the user's own for a search: CSV files and tables that were saved, each under a workload's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pynas.costs import load, read_csv
from pynas.errors import InputError
from pynas.spaces import Space

_NAMED = re.compile(r"([\w.-]+)=(.+)")


def read_own(text: str, space: Space) -> Any:
    """Return the costs of `FILE`, or of `WORKLOAD=FILE`, whose names then end with `@WORKLOAD`.

    The file is a CSV file as of `pynas.costs.read_csv`, or an .npz file that `save` of costs wrote.

    Raises:
        InputError: a file that cannot be read, or of another space.
    """
    match = None if Path(text).exists() else _NAMED.fullmatch(text)
    workload, file = (None, text) if match is None else match.groups()
    costs = _load(Path(file), space) if Path(file).suffix == ".npz" else read_csv(file, space)
    return costs if workload is None else costs.renamed({name: f"{name}@{workload}" for name in costs.names})


def _load(path: Path, space: Space) -> Any:
    costs = load(path)
    if costs.metadata.get("space") != space.name:
        raise InputError(
            f"[costs] expected costs of {space.name}, got those of {costs.metadata.get('space')} in {path}"
        )
    return costs
