"""The score tables of a block in one file of a run: `scores/block_3.npz`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pynas.files import read_arrays, write_arrays
from pynas.rating.table import ScoreTable

_KIND = "pynas.block_scores"


def save_block(path: str | Path, tables: Sequence[ScoreTable], **made_from: Any) -> None:
    """Write the tables of all cells of a block, atomically, with what they were made from."""
    write_arrays(path, _KIND, {f"cell_{c}": table.scores for c, table in enumerate(tables)}, **made_from)


def load_block(path: str | Path) -> tuple[list[ScoreTable], dict[str, Any]]:
    """Read what `save_block` wrote.

    Raises:
        InputError: missing, damaged, or of another version.
    """
    arrays, made_from = read_arrays(path, _KIND)
    return [ScoreTable(arrays[f"cell_{c}"], made_from) for c in range(len(arrays))], made_from
