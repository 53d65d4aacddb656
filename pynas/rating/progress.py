"""Progress of a rating."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Path evaluations (paths times batches) of a rating so far.

    done, total: number done, and in all; total is None while the number of batches is unknown. fresh: those of `done` that
    this run did itself, not the run that it resumes. seconds: since the start.
    """

    done: int
    total: int | None
    seconds: float
    fresh: int

    @property
    def rate(self) -> float:
        """Fresh path evaluations per second."""
        return self.fresh / self.seconds if self.seconds else 0.0


class Meter:
    """Counts path evaluations, and calls `report` at most every `interval` seconds and at the end."""

    def __init__(self, report: Callable[[Progress], None] | None, total: int | None, interval: float = 0.2) -> None:
        self._report, self._total, self._interval = report, total, interval
        self._done = self._fresh = 0
        self._turn = threading.Lock()  # all workers count here
        self._started = self._reported = time.perf_counter()

    def add(self, count: int, fresh: bool = True) -> None:
        """Count evaluations as done; fresh=False: an earlier run did them."""
        with self._turn:
            self._done += count
            self._fresh += count if fresh else 0
            if time.perf_counter() - self._reported >= self._interval:
                self._tell()

    def finish(self) -> None:
        """Report that all evaluations are done."""
        self._total = self._done
        self._tell()

    def _tell(self) -> None:
        self._reported = time.perf_counter()
        if self._report is not None:
            self._report(Progress(self._done, self._total, self._reported - self._started, self._fresh))
