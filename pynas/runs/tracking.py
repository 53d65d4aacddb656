"""Logging of a run's trainings, pictures and results to trackers of experiments."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pynas.errors import InputError, last_line
from pynas.export.files import SUBNET
from pynas.files import header, read_json, write_json
from pynas.runs.progress import Progress
from pynas.runs.search import SEARCH
from pynas.runs.trackers import TRACKERS, Rows, Tracker
from pynas.tensor_files import read_metadata
from pynas.train import Step

# The trackers' own identities of a run, by tracker: a run that is resumed goes on in them.
FILE, _KIND = "trackers.json", "pynas.trackers"


class Trackers:
    """The trackers of one run, begun when the first of them is needed; one that fails in the middle is left out with a warning.

    names: of `TRACKERS`. folder: the run's. settings: of the run.

    Raises:
        InputError: an unknown tracker, or one that is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        for name in names:
            if name not in TRACKERS:
                raise InputError(f"[trackers] expected {', '.join(TRACKERS)}, got {name!r}")
            if importlib.util.find_spec(name) is None:
                raise InputError(f'[trackers] expected the package {name}, got none; pip install ".[{name}]"')
        self.folder, self.settings, self.begun, self.since = folder, settings, False, time.time()
        self.trackers: dict[str, Tracker] = {name: TRACKERS[name](folder) for name in dict.fromkeys(names)}

    def log(self, training: str) -> Callable[[Step], None]:
        """Return the log of one training: losses, learning rate, and from the second step on images per second."""
        before: list[float] = []

        def write(step: Step) -> None:
            now = time.monotonic()
            values = {**step.losses, "learning rate": step.learning_rate}
            if before and step.images:
                values["images per second"] = step.images / max(now - before[0], 1e-9)
            before[:] = [now]
            self._each(lambda tracker: tracker.log(training, step.step, values))

        return write

    def finish(self, rows: Rows) -> None:
        """Log the pictures that were drawn in the run's folder meanwhile, and a table of what was found, where there are any."""
        for path in sorted(self.folder.glob("*.png")):
            if path.stat().st_mtime >= self.since:
                self._each(partial(_show, path))
        if rows:
            self._each(lambda tracker: tracker.table(rows))

    def close(self, whole: bool) -> None:
        """End what was begun; whole: without an error or a signal."""
        if self.begun:
            self._each(lambda tracker: tracker.close(whole))

    def _begin(self) -> None:
        self.begun, path = True, self.folder / FILE
        known = read_json(path, _KIND)["runs"] if path.exists() else {}
        for name, tracker in self.trackers.items():
            try:
                with _quiet():
                    known[name] = tracker.start(self.folder.resolve().name, self.settings, known.get(name))
            except Exception as error:  # code of others
                raise InputError(f"[trackers] expected {name} to begin a run, got {type(error).__name__}: {last_line(error)}; "
                                 f"check its settings, or move {path} away for a new run there") from None  # fmt: skip
        write_json(path, header(_KIND) | {"runs": known})

    def _each(self, act: Callable[[Tracker], None]) -> None:
        if not self.begun and self.trackers:
            self._begin()
        for name, tracker in list(self.trackers.items()):
            try:
                with _quiet():
                    act(tracker)
            except Exception as error:  # code of others, over a network
                del self.trackers[name]
                warnings.warn(f"[trackers] {name} is left out from here on: {type(error).__name__}: {last_line(error)}",
                              stacklevel=2)  # fmt: skip


@contextlib.contextmanager
def tracking(run: Any, names: Sequence[str] | None, rows: Callable[[], Rows]) -> Iterator[None]:
    """Log the trainings of a run to trackers while the body runs, and at its end the pictures and the rows.

    run: a `pynas.runs.Run` whose `progress` is set. names: of `TRACKERS`; none in processes beside the first. rows: called at
    the end.

    Raises:
        InputError: see `Trackers`.
    """
    trackers = Trackers(names or (), run.folder, run.settings.model_dump())
    run.progress = run.progress.also(Progress(None, trackers.log)) if names else run.progress
    whole = False
    try:
        yield
        trackers.finish(rows() if names else ())
        whole = True
    finally:
        trackers.close(whole)


def found_rows(folder: Path) -> Rows:
    """Return the architectures that a run's search found, with score, costs and, of the exported one, the test accuracy."""
    path, exported = folder / "search.json", folder / "subnet.safetensors"
    found = read_json(path, SEARCH)["found"] if path.exists() else []
    known = read_metadata(exported, SUBNET) if exported.exists() else {}
    return [{**entry, "test_accuracy": known.get("test_accuracy") if entry["architecture"] == known.get("architecture") else None}
            for entry in found]  # fmt: skip


def _show(path: Path, tracker: Tracker) -> None:
    tracker.figure(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a tracker's warnings back, and its words from stdout, which is the command's own."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
