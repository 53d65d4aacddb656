"""Runs that find something out about a module: looks, examinations and comparisons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Looks:
    """Counts the looks at the modules of an engine.

    count: so far, exact with one worker. refusing: whether a look is an error now.
    """

    def __init__(self) -> None:
        self.count, self.refusing = 0, False

    def note(self) -> None:
        """Count a look.

        Raises:
            RuntimeError: a look inside `refused`.
        """
        if self.refusing:
            raise RuntimeError("a module that is not known yet")
        self.count += 1

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Make looks errors inside the `with` block, before they change what is known."""
        self.refusing = True
        try:
            yield
        finally:
            self.refusing = False
