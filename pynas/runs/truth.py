"""Accuracies of trained networks, read from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from pynas.errors import InputError
from pynas.spaces import Architecture, Space


def read_truth(path: Path, space: Space) -> dict[Architecture, float]:
    """Read accuracies by architecture from a CSV file with the columns `architecture` and `accuracy`.

    Raises:
        InputError: missing, malformed, an architecture outside the space, or fewer than three.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        truth = {space.parse(row["architecture"]): float(row["accuracy"]) for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise InputError(f"[report] expected a CSV file with the columns architecture and accuracy, got {error!r} in "
                         f"{path}") from None  # fmt: skip
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"[report] expected numbers as accuracy, got {error} in {path}") from None
    if len(truth) < 3:
        raise InputError(f"[report] expected at least three architectures, got {len(truth)} in {path}")
    return truth
