"""BossNAS's published path scores, and scores of whole architectures from score tables or files."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pynas.errors import InputError
from pynas.rating.table import ScoreTable
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.load import read_rows

# Per block, the candidates of every layer.
PUBLISHED = {"mbconv-23": ((4,) * 2, *((4,) * 4,) * 4), "nats-size": ((8,) * 2, (8,) * 2, (8,))}


def load_path_scores(name: str) -> list[list[ScoreTable]]:
    """BossNAS's scores of every path, `tables[block][0]`, as losses in [0, 8]: two views of 2 - 2 cos (eq. 4).

    "mbconv-23": ImageNet, blocks of 2/4/4/4/4 layers with 4 candidates. "nats-size": CIFAR-10, blocks of 2/2/1 layers
    with 8 widths. Blocks combine freely: a block's input has one width, that of the best path before it.

    Raises:
        InputError: a benchmark without published path scores.
    """
    if name not in PUBLISHED:
        raise InputError(f"[path scores] expected {' or '.join(PUBLISHED)}, got {name!r}")
    losses = [np.full(shape, np.nan) for shape in PUBLISHED[name]]
    for row in read_rows(f"bossnas_{name.replace('-', '_')}_paths.csv"):
        # What is published is -2 cos, summed over two views.
        losses[int(row["block"])][tuple(map(int, row["path"]))] = float(row["score"]) + 4
    return [[ScoreTable(loss, {"source": "BossNAS (Li et al., ICCV 2021)", "space": name})] for loss in losses]


def published_scores(bench: Benchmark) -> np.ndarray | None:
    """BossNAS's score of every row of the benchmark, a loss `[N]`; None where nothing is published.

    For mbconv-23 the totals as printed, with four decimals: the correlations in the paper are those of these.
    """
    if bench.name == "mbconv-23":
        printed = {row["encoding"]: float(row["bossnas_score"]) for row in read_rows("mbconv_23.csv")}
        return np.array([printed[name] for name in bench.architectures])
    return total_scores(load_path_scores(bench.name), bench) if bench.name in PUBLISHED else None


def total_scores(tables: Sequence[Sequence[ScoreTable]], bench: Benchmark) -> np.ndarray:
    """The sum over the blocks of the path's score, for every row of the benchmark, `[N]`; NaN where one is not rated.

    Raises:
        InputError: tables that do not have the benchmark's layers, or several cells in a block.
    """
    shapes = [table.shape for cells in tables for table in cells]
    layers, most = bench.choices.shape[1], len(bench.ops)
    if any(len(cells) != 1 for cells in tables) or [c for shape in shapes for c in shape] != [most] * layers:
        raise InputError(f"[{bench.name}] expected score tables of one cell per block with {layers} layers of {most} "
                         f"candidates in all, got {shapes}")  # fmt: skip
    total, begin = np.zeros(len(bench)), 0
    for (table,) in tables:
        end = begin + len(table.shape)
        total += table.scores[tuple(bench.choices[:, begin:end].T)]
        begin = end
    return total


def read_scores(path: str | Path, bench: Benchmark) -> np.ndarray:
    """Scores from a CSV file with the columns `architecture` and `score`, in the benchmark's order, NaN where none.

    Raises:
        InputError: missing, malformed, an architecture that is not in the benchmark, or one that comes twice.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"[scores] expected a CSV file, got nothing at {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"[scores] expected a CSV file, got {error} in {path}") from None
    scores = np.full(len(bench), np.nan)
    for number, row in enumerate(rows, 2):
        if row.get("architecture") is None or row.get("score") is None:
            raise InputError(f"[scores] expected the columns architecture and score, "
                             f"got {', '.join(map(str, row))} in line {number} of {path}")  # fmt: skip
        index, score = bench.index(row["architecture"]), _number(row["score"], number, path)
        if not np.isnan(scores[index]):
            raise InputError(f"[scores] expected each architecture once, "
                             f"got {row['architecture']!r} again in line {number} of {path}")  # fmt: skip
        scores[index] = score
    return scores


def _number(text: str, line: int, path: str | Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"[scores] expected a finite number as score, got {text!r} in line {line} of {path}")
    return value
