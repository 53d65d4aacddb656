"""Values of whole networks, read from CSV files: accuracies of trained ones, and scores of a search by trial."""

from __future__ import annotations

from pathlib import Path

from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.spaces import Architecture, Space

# File of a run with the networks that its search by trial rated.
RATINGS = "ratings.csv"


def read_truth(path: Path, space: Space) -> dict[Architecture, float]:
    """Read accuracies by architecture from a CSV file with the columns `architecture` and `accuracy`.

    Raises:
        InputError: missing, malformed, an architecture outside the space or in two rows, or fewer than three.
    """
    truth = _values(path, space, "report", "accuracy")
    if len(truth) < 3:
        raise InputError(f"[report] expected at least three architectures, got {len(truth)} in {path}")
    return truth


def read_ratings(path: Path, space: Space) -> dict[Architecture, float]:
    """Read the scores by architecture that a search by trial wrote, from a CSV file with the columns `architecture` and `score`.

    Raises:
        InputError: missing, malformed, or an architecture outside the space or in two rows.
    """
    return _values(path, space, "ratings", "score")


def _values(path: Path, space: Space, where: str, column: str) -> dict[Architecture, float]:
    file = read_csv_file(where, path, ("architecture", column))
    values: dict[Architecture, float] = {}
    for row, value in zip(file.rows, file.numbers(column)):
        try:
            architecture = space.parse(row["architecture"])
        except InputError as error:
            raise InputError(f"{error} in line {row.line} of {path}") from None
        if architecture in values:
            raise file.refuse("each architecture once", f"{row['architecture']!r} again", row)
        values[architecture] = value
    return values
