"""Accuracies of trained networks, read from a CSV file."""

from __future__ import annotations

from pathlib import Path

from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.spaces import Architecture, Space


def read_truth(path: Path, space: Space) -> dict[Architecture, float]:
    """Read accuracies by architecture from a CSV file with the columns `architecture` and `accuracy`.

    Raises:
        InputError: missing, malformed, an architecture outside the space or in two rows, or fewer than three.
    """
    file = read_csv_file("report", path, ("architecture", "accuracy"))
    truth: dict[Architecture, float] = {}
    for row, accuracy in zip(file.rows, file.numbers("accuracy")):
        try:
            architecture = space.parse(row["architecture"])
        except InputError as error:
            raise InputError(f"{error} in line {row.line} of {path}") from None
        if architecture in truth:
            raise file.refuse("each architecture once", f"{row['architecture']!r} again", row)
        truth[architecture] = accuracy
    if len(truth) < 3:
        raise InputError(f"[report] expected at least three architectures, got {len(truth)} in {path}")
    return truth
