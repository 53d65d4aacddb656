"""How far a rating is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """done, total: path evaluations (paths times batches; total is None while the number of batches is unknown)."""

    done: int
    total: int | None
    seconds: float
    fresh: int

    @property
    def rate(self) -> float:
        """Path evaluations per second, without those that a resumed rating found done."""
        return self.fresh / self.seconds if self.seconds else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left, as far as known."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None


class Meter:
    """Counts path evaluations, and tells `report` at most every `interval` seconds and at the end."""

    def __init__(self, report: Callable[[Progress], None] | None, total: int | None, interval: float = 0.2) -> None:
        self._report, self._total, self._interval = report, total, interval
        self._done = self._fresh = 0
        self._turn = threading.Lock()  # the workers count together
        self._started = self._told = time.perf_counter()

    def add(self, count: int, fresh: bool = True) -> None:
        """So many more are done; not fresh: an earlier run had done them."""
        with self._turn:
            self._done += count
            self._fresh += count if fresh else 0
            if time.perf_counter() - self._told >= self._interval:
                self._tell()

    def finish(self) -> None:
        """All is done."""
        self._total = self._done
        self._tell()

    def _tell(self) -> None:
        self._told = time.perf_counter()
        if self._report is not None:
            self._report(Progress(self._done, self._total, self._told - self._started, self._fresh))
