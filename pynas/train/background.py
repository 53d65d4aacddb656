"""Work in a thread that the training does not wait for, one piece at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any


class Background:
    """A thread for writing files; leaving the context finishes the work in flight, whatever ends the body.

    An error of the work is raised by the next `begin` or `wait`, or at the end; where another error ends the body, it is a
    warning.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pynas-background")
        self._work: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether work is in flight."""
        return self._work is not None and not self._work.done()

    def begin(self, work: Callable[[], None]) -> None:
        """Begin a piece of work, after the one before has ended."""
        self.wait()
        self._work = self._pool.submit(work)

    def wait(self) -> None:
        """Wait for the work in flight, and raise its error."""
        if self._work is None:
            return
        wait([self._work])  # a signal may end this; the work then stays in flight
        work, self._work = self._work, None
        work.result()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            warnings.warn(f"files of the training were not written: {own}", stacklevel=2)
        finally:
            self._pool.shutdown()
