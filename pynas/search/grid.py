"""Losses and costs as whole numbers: every sum is exact, and no comparison depends on rounding."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pynas.errors import InputError

# Totals stay below 2**60, whatever is chosen; the kernel needs 2**61.
_BITS = 60


@dataclass(frozen=True)
class Grid:
    """Values as whole multiples of 2**exponent: float64 `[n]` per block -> int64, totals exact.

    The unit is 2**-60 of the greatest possible total: float64 values within a factor of 2**7 of it are kept to the last bit,
    smaller ones are rounded to the nearest multiple. A total is the exact sum of those, rounded once to float64, as by
    `math.fsum`.
    """

    exponent: int

    @classmethod
    def of(cls, greatest: float) -> Grid:
        return cls(math.frexp(greatest)[1] - _BITS)

    def whole(self, values: np.ndarray) -> np.ndarray:
        return np.rint(np.ldexp(values, -self.exponent)).astype(np.int64)

    def total(self, whole: np.ndarray | int) -> np.ndarray:
        """Totals as float64, rounded once; a single number may exceed 64 bits, as a loose bound can."""
        return np.ldexp(np.asarray(whole).astype(np.float64), self.exponent)

    def most(self, limit: float) -> int:
        """Greatest whole total that, rounded to float64, is `limit` or less."""
        return bisect.bisect_right(range(2**61), self._scaled(limit), key=float) - 1

    def least(self, limit: float) -> int:
        """Least whole total that, rounded to float64, is `limit` or more."""
        return bisect.bisect_left(range(2**61), self._scaled(limit), key=float)

    def _scaled(self, limit: float) -> float:
        beyond = abs(limit) >= math.ldexp(1.0, self.exponent + 62)
        return math.copysign(2.0**62, limit) if beyond else math.ldexp(limit, -self.exponent)


@dataclass(frozen=True)
class Column:
    """One cost as whole values `[N]`, its fixed part that no choice changes, and their grid (None: int64 as given)."""

    whole: np.ndarray
    fixed: int
    grid: Grid | None

    def total(self, rows: np.ndarray) -> np.ndarray:
        """Totals of choices: rows `[..., B]` -> `[...]`."""
        whole = self.fixed + self.whole[rows].sum(axis=-1)
        return whole if self.grid is None else self.grid.total(whole)

    def most(self, limit: float) -> int:
        """Greatest whole total of a choice, without the fixed part, under an upper limit."""
        if math.isinf(limit):
            return int(math.copysign(2**_BITS, limit))
        return (math.floor(limit) if self.grid is None else self.grid.most(limit)) - self.fixed

    def least(self, limit: float) -> int:
        """Least whole total of a choice, without the fixed part, above a lower limit."""
        if math.isinf(limit):
            return int(math.copysign(2**_BITS, limit))
        return (math.ceil(limit) if self.grid is None else self.grid.least(limit)) - self.fixed


def greatest_total(values: np.ndarray, offsets: np.ndarray) -> float:
    """Sum over the blocks of the greatest magnitude."""
    with np.errstate(over="ignore"):
        return float(np.maximum.reduceat(np.abs(values.astype(np.float64)), offsets[:-1]).sum())


def join_blocks(name: str, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Join the blocks' values to one array `[N]`, and return the offsets `[B+1]` of the blocks.

    Raises:
        InputError: no block, an empty block, or a block with more than one axis.
    """
    if len(blocks) == 0:
        raise InputError(f"[{name}] expected at least one block, got none")
    arrays = [np.asarray(block) for block in blocks]
    for b, array in enumerate(arrays):
        if array.ndim != 1 or array.size == 0:
            raise InputError(
                f"[{name}] expected one loss per option, at least one, got the shape {array.shape} in block {b}"
            )
    return np.concatenate(arrays), np.cumsum([0, *(array.size for array in arrays)])


def losses_on_grid(name: str, losses: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return whole losses `[N]` and their grid.

    Raises:
        InputError: NaN, infinite, or a total beyond float64.
    """
    _require_finite(name, "losses", losses, offsets)
    greatest = greatest_total(losses, offsets)
    if not math.isfinite(greatest):
        raise InputError(f"[{name}] expected losses whose sum is finite, got a sum beyond float64")
    grid = Grid.of(greatest)
    return grid.whole(losses), grid


def cost_column(name: str, what: str, values: np.ndarray, offsets: np.ndarray, fixed: float = 0) -> Column:
    """Check the cost of every option, and put it on whole numbers.

    Raises:
        InputError: NaN, infinite, negative, of another length, or a total beyond int64.
    """
    if values.shape != (offsets[-1],):
        raise InputError(f"[{name}] expected {what} of {offsets[-1]} options, got {values.shape}")
    whole = np.issubdtype(values.dtype, np.integer) and float(fixed).is_integer()
    if not np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.float64)
        _require_finite(name, what, values, offsets)
    if not math.isfinite(fixed) or fixed < 0 or values.min() < 0:
        at = int(values.argmin())
        got = fixed if not (math.isfinite(fixed) and fixed >= 0) else f"{values[at]} in block {_block_of(at, offsets)}"
        raise InputError(f"[{name}] expected {what} of 0 or more, got {got}")
    greatest = greatest_total(values, offsets) + float(fixed)
    if not whole:
        if not math.isfinite(greatest):
            raise InputError(f"[{name}] expected {what} whose sum is finite, got a sum beyond float64")
        grid = Grid.of(greatest)
        return Column(grid.whole(values.astype(np.float64)), int(grid.whole(np.float64(fixed))), grid)
    if greatest >= 2.0**_BITS:
        raise InputError(f"[{name}] expected {what} whose sum stays below 2**{_BITS}, got up to {greatest:.3g}")
    return Column(values.astype(np.int64), int(fixed), None)


def _block_of(at: int, offsets: np.ndarray) -> int:
    return int(np.searchsorted(offsets, at, side="right")) - 1


def _require_finite(name: str, what: str, values: np.ndarray, offsets: np.ndarray) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(finite.argmin())
        raise InputError(
            f"[{name}] expected finite {what}, got {values[at]} in block {_block_of(at, offsets)}, "
            f"option {at - offsets[_block_of(at, offsets)]}"
        )
