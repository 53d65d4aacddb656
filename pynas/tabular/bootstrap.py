"""Bootstrap of rank correlations, many resamples at once; a resample is the number of times each row was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Up to so many rows Kendall's tau is exact in every resample; beyond, its pairs do not fit and it is linearised.
EXACT_PAIRS = 1024
_CHUNK = 1 << 21


def bootstrap(
    predictors: Sequence[np.ndarray], accuracy: np.ndarray, resamples: int, seed: int, exact_pairs: int = EXACT_PAIRS
) -> np.ndarray:
    """Kendall's tau-b, Spearman's rho and Pearson's R of every predictor in every resample, `[P, resamples, 3]`.

    predictors: `[n]` each, larger is better. All share the resamples of the rows. NaN where a resample is constant.
    Above `exact_pairs` rows, tau's sums over pairs are linearised in the counts: the width of the interval then has a relative
    error of order 1/n.
    """
    exact = len(accuracy) <= exact_pairs
    truth = _Column.of(accuracy)
    in_truth = _Pairs.of(truth.dense, truth.dense, exact)
    columns = [_Column.of(predictor) for predictor in predictors]
    pairs = [(_Pairs.of(c.dense, truth.dense, exact), _Pairs.of(c.dense, c.dense, exact)) for c in columns]
    parts = []
    for counts in _draws(len(accuracy), resamples, seed):
        ranks, squares = truth.ranks(counts)
        ranks *= counts
        all_truth = in_truth.total(counts)
        part = [
            (
                _ratio(agree.total(counts), own.total(counts), all_truth),
                _spearman(column.ranks(counts), ranks, squares),
                _pearson(counts, column.standard, truth.standard),
            )
            for column, (agree, own) in zip(columns, pairs)
        ]
        parts.append(np.moveaxis(np.array(part), 1, 2))
    return np.concatenate(parts, axis=1)


def standardised(values: np.ndarray) -> np.ndarray:
    """Values with mean 0 and deviation 1 (0 where all are equal); squares of large and tiny values neither overflow nor vanish."""
    values = np.asarray(values, dtype=np.float64)
    for _ in range(2):  # tiny differences of large values are scaled again
        values = np.ldexp(values, -int(np.frexp(np.abs(values).max(initial=0.0))[1]))
        values = values - values.mean()
    return values / (values.std() or 1.0)


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield counts of each row in some resamples, float64 `[r, n]`."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    for begin in range(0, resamples, step):
        r = min(step, resamples - begin)
        drawn = rng.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def _ratio(numerator: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / np.sqrt(np.maximum(first * second, 0))


def _spearman(column: tuple[np.ndarray, np.ndarray], weighted: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """From centred ranks and their squares' sum; weighted: the truth's ranks times the counts. `[r]`."""
    return _ratio(np.einsum("rn,rn->r", column[0], weighted), column[1], squares)


def _pearson(counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of standardised values `[n]` under counts, `[r]`."""
    n = len(x)
    mean_x, mean_y, xy, xx, yy = (counts @ np.stack([x, y, x * y, x * x, y * y], axis=1)).T / n
    return _ratio(xy - mean_x * mean_y, xx - mean_x**2, yy - mean_y**2)


@dataclass(frozen=True)
class _Column:
    """Values `[n]` of a predictor: standardised, their dense ranks (int64, from 0), and the sorted order of the rows."""

    standard: np.ndarray
    dense: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Column:
        values = np.asarray(values, dtype=np.float64)
        dense = np.unique(values, return_inverse=True)[1].reshape(-1)
        order = np.argsort(dense, kind="stable")
        starts = np.flatnonzero(np.diff(dense[order], prepend=-1))
        return cls(standardised(values), dense, order, starts)

    def ranks(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mid-ranks of the rows in every resample, centred, `[r, n]`, and the sum of their squares, `[r]`."""
        held = np.add.reduceat(counts[:, self.order], self.starts, axis=1)
        # Before a value lie all smaller ones and, on the mean, half of its own; the mean of all ranks is then n / 2.
        middle = np.cumsum(held, axis=1) - held / 2 - counts.shape[1] / 2
        return middle[:, self.dense], (held * middle**2).sum(axis=1)


@dataclass(frozen=True)
class _Pairs:
    """sum over pairs (i, j) of sign(x_i - x_j) sign(y_i - y_j), the numerator of Kendall's tau-b, under counts.

    rows `[n]`: the sum over j. matrix `[n, n]`: all pairs, None where they are linearised.
    """

    rows: np.ndarray
    matrix: np.ndarray | None

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, exact: bool) -> _Pairs:
        if not exact:
            return cls(concordance(x, y), None)
        matrix = (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).astype(np.float32)
        return cls(matrix.sum(axis=1), matrix)

    def total(self, counts: np.ndarray) -> np.ndarray:
        """The sum in every resample, `[r]`."""
        if self.matrix is None:
            # w' M w around w = 1, where every row counts once.
            return 2 * counts @ self.rows - self.rows.sum()
        # float32 holds these whole numbers exactly.
        return np.einsum("rn,rn->r", counts.astype(np.float32) @ self.matrix, counts)


def concordance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For every row, number of concordant minus discordant rows; float64 `[n]`, in O(n sqrt n)."""
    agree = _dominated(x, y) + _dominated(-x, -y)
    return (agree - _dominated(x, -y) - _dominated(-x, y)).astype(np.float64)


def _dominated(x: np.ndarray, y: np.ndarray, block: int = 256) -> np.ndarray:
    """For every row, number of rows that are smaller in x and in y; int64 `[n]`."""
    # Of rows with equal x, those with the smaller y come later: a smaller y that came before has a smaller x.
    order = np.lexsort((-y, x))
    ranks = np.unique(y, return_inverse=True)[1].reshape(-1)[order]
    seen = np.zeros(ranks.max() + 1, np.int64)
    found = np.empty(len(x), np.int64)
    for begin in range(0, len(x), block):
        part = ranks[begin : begin + block]
        within = np.tril(part[None, :] < part[:, None], -1).sum(axis=1)
        found[begin : begin + block] = (np.cumsum(seen) - seen)[part] + within
        seen += np.bincount(part, minlength=len(seen))
    counts = np.empty_like(found)
    counts[order] = found
    return counts
