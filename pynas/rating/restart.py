"""Ratings that begin again where a module turns out to keep state: each path then runs alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pynas.rating.batches import Batch, Source, groups
from pynas.rating.engine import Engine
from pynas.rating.examination import KeepsState
from pynas.rating.partial import Partial


@dataclass(frozen=True)
class Restart:
    """Rates group of batches after group; from the first batch again, all in one group, where a module keeps state.

    engines: run each path alone from then on. calibration, max_bytes: of the groups. fail_as_one: context in which the
    processes of a rating fail together.
    """

    engines: Sequence[Engine]
    partial: Partial
    calibration: bool
    max_bytes: int
    fail_as_one: Callable[[], AbstractContextManager[Any]] = nullcontext

    def run(self, batches: Iterable[Any], rate: Callable[[Iterator[list[Batch]], int | None, Source], None]) -> None:
        """Call `rate` with the groups of batches, the number of batches (None: not known) and their source."""
        count = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
        source = Source(batches, self.max_bytes // 4)
        try:
            rate(groups(source, self.calibration, self.max_bytes), count, source)
        except KeepsState as found:
            with self.fail_as_one():
                everything = source.everything(found)
            self.partial.restart()
            for engine in self.engines:
                engine.go_alone(found)
            warnings.warn(
                f"[rate] {found} or draws random numbers: each path runs alone, without shared work", stacklevel=2
            )
            rate(iter([everything]), len(everything), source)
