"""BossNAS's published path scores; scores of a benchmark's rows from score tables or files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.load import read_rows

# Per block, the candidates of every layer.
PUBLISHED = {"mbconv-23": ((4,) * 2, *((4,) * 4,) * 4), "nats-size": ((8,) * 2, (8,) * 2, (8,))}


def load_path_scores(name: str) -> Scores:
    """Load BossNAS's published score of every path, a loss in [0, 8]: the sum over two views of 2 - 2 cos (eq. 4).

    "mbconv-23": ImageNet, blocks of 2/4/4/4/4 layers with 4 candidates. "nats-size": CIFAR-10, blocks of 2/2/1 layers
    with 8 widths. Blocks combine freely, as a product: each was rated on the output of the best path before it.

    Raises:
        InputError: a benchmark without published path scores.
    """
    if name not in PUBLISHED:
        raise InputError(f"[path scores] expected {' or '.join(PUBLISHED)}, got {name!r}")
    losses = [np.full(shape, np.nan) for shape in PUBLISHED[name]]
    for row in read_rows(f"bossnas_{name.replace('-', '_')}_paths.csv"):
        # The published number is -2 cos, summed over two views.
        losses[int(row["block"])][tuple(map(int, row["path"]))] = float(row["score"]) + 4
    metadata = {"source": "BossNAS (Li et al., ICCV 2021)", "space": name}
    return Scores.product([[ScoreTable(loss, metadata)] for loss in losses], name)


def published_scores(bench: Benchmark) -> np.ndarray | None:
    """Return BossNAS's published score of every row of the benchmark, a loss `[N]`; None where there is none.

    For mbconv-23 these are the printed totals with four decimals, on which the paper's correlations rest.
    """
    if bench.name == "mbconv-23":
        printed = {row["encoding"]: float(row["bossnas_score"]) for row in read_rows("mbconv_23.csv")}
        return np.array([printed[name] for name in bench.architectures])
    return total_scores(load_path_scores(bench.name), bench) if bench.name in PUBLISHED else None


def total_scores(scores: Scores, bench: Benchmark) -> np.ndarray:
    """Sum of the block scores of every row of the benchmark, float64 `[N]`; NaN where a path was not rated.

    A space with a notation reads the rows' strings; the tables of any other must have the benchmark's layers.

    Raises:
        InputError: tables without their space, a row outside the space, or tables of other layers.
    """
    tables, space = Scores.check("total scores", scores).tables, scores.space
    if space.notation is not None:
        return scores.total(map(space.parse, bench.architectures))
    shapes = [table.shape for cells in tables for table in cells]
    layers, most = bench.choices.shape[1], len(bench.ops)
    if any(len(cells) != 1 for cells in tables) or [c for shape in shapes for c in shape] != [most] * layers:
        raise InputError(f"[{bench.name}] expected score tables of one cell per block with {layers} layers of {most} "
                         f"candidates in all, got {shapes}")  # fmt: skip
    total, begin = np.zeros(len(bench)), 0
    for (table,) in tables:
        end = begin + len(table.shape)
        total += table.at(bench.choices[:, begin:end])
        begin = end
    return total


def read_scores(path: str | Path, bench: Benchmark) -> np.ndarray:
    """Read scores from a CSV file with the columns `architecture` and `score`, in the benchmark's order, NaN where none.

    Raises:
        InputError: a missing or malformed file, no rows, an architecture that is not in the benchmark or comes twice.
    """
    file = read_csv_file("scores", path, ("architecture", "score"))
    scores = np.full(len(bench), np.nan)
    for row, score in zip(file.rows, file.numbers("score")):
        try:
            index = bench.index(row["architecture"])
        except InputError as error:
            raise InputError(f"{error} in line {row.line} of {path}") from None
        if not np.isnan(scores[index]):
            raise file.refuse("each architecture once", f"{row['architecture']!r} again", row)
        scores[index] = score
    if not file.rows:
        raise InputError(f"[scores] expected rows below the header, got none in {path}")
    return scores
