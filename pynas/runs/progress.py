"""Where the stages of a run report their progress; this module draws nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynas.rating import Progress as RatingProgress
from pynas.train import Step

# Called with (done, in all, a note).
Update = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Progress:
    """Reports of a run's stages; without arguments they go nowhere.

    bar: called with the name of a piece of work, returns the function that is called as the work goes on.
    log: called with the name of a training, returns the function that is called after each of its steps.
    """

    bar: Callable[[str], Update] | None = None
    log: Callable[[str], Callable[[Step], None]] | None = None

    def named(self, name: str) -> Progress:
        """Return the progress of a part of the run: a name in front of the names of its bars and logs."""
        bar, log = self.bar, self.log
        return Progress(
            None if bar is None else lambda work: bar(f"{name}: {work}"),
            None if log is None else lambda work: log(f"{name}/{work}"),
        )

    def also(self, other: Progress) -> Progress:
        """Return a progress that reports to this one, then to another."""
        return Progress(_both(self.bar, other.bar), _both(self.log, other.log))

    def ticking(self, tick: Callable[[], None]) -> Progress:
        """Return a progress that reports alike, and first calls `tick` at every report."""
        bar = self.bar

        def with_tick(name: str) -> Update:
            update = None if bar is None else bar(name)

            def report(done: int, total: int, note: str) -> None:
                tick()
                if update is not None:
                    update(done, total, note)

            return report

        return Progress(with_tick, self.log)

    def epochs(self, name: str = "train teacher") -> Callable[[int, int, float], None] | None:
        """Return the report of a teacher's training: (epochs done, epochs, mean loss)."""
        if self.bar is None:
            return None
        update = self.bar(name)
        return lambda done, epochs, loss: update(done, epochs, f"loss {loss:.3f}")

    def steps(self, name: str = "train supernet", log_name: str | None = None) -> Callable[[Step], None] | None:
        """Return the report of a training's steps; log_name: of its log, None for the bar's name."""
        update = self.bar(name) if self.bar is not None else None
        log = self.log(log_name or name) if self.log is not None else None
        if update is None and log is None:
            return None

        def report(step: Step) -> None:
            if update is not None:
                update(step.step, step.steps, f"epoch {step.epoch}, loss {sum(step.losses.values()):.3f}")
            if log is not None:
                log(step)

        return report

    def count(self, name: str = "rate paths") -> Callable[[int, int], None]:
        """Return the report of work that is counted: (done, in all)."""
        if self.bar is None:
            return lambda done, total: None
        update = self.bar(name)
        return lambda done, total: update(done, total, "")


def _both(first: Any, second: Any) -> Any:
    """Return one maker of reports out of two, of which either may be None."""
    if first is None or second is None:
        return first or second

    def make(name: str) -> Callable[..., None]:
        reports = first(name), second(name)

        def report(*arguments: Any) -> None:
            for each in reports:
                each(*arguments)

        return report

    return make


class PathCounter:
    """Adds up the progress of ratings that run one after the other, cell by cell and block by block.

    report: called with (path evaluations done, in all). total: path evaluations of all blocks.
    """

    def __init__(self, report: Callable[[int, int], None], total: int):
        self._report, self._total = report, total
        self._blocks = self._cells = self._cell = 0

    def cell(self, progress: RatingProgress) -> None:
        """Report the progress of the cell that is rated now."""
        if progress.done < self._cell:  # the next cell has begun
            self._cells += self._cell
        self._cell = progress.done
        self._report(self._blocks + self._cells + self._cell, self._total)

    def block(self, evaluations: int, read: bool = False) -> None:
        """Report a finished block of so many path evaluations; read: it was rated before, which is no progress to report."""
        self._blocks, self._cells, self._cell = self._blocks + evaluations, 0, 0
        if not read:
            self._report(self._blocks, self._total)
