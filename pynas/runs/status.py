"""Status of a run that works, kept as status.json in its folder: `pynas status` reads from it how far the run is."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.rating.distributed import rank_and_size
from pynas.runs.progress import Progress, Update
from pynas.runs.settings import STATUS
from pynas.tensor_files import read_metadata
from pynas.train import Step
from pynas.train.background import Background
from pynas.train.checkpoint import CHECKPOINT, LAST

KIND = "pynas.status"
# Seconds between two writes; seconds over which speeds are measured, and between two marks for that; steps of a mean loss.
EVERY, WINDOW, MARK, MEAN = 2.0, 60.0, 1.0, 100


class _Work:
    """Piece of work of a stage: how far it is, how fast, and the losses of its last steps."""

    def __init__(self, name: str) -> None:
        self.name, self.done, self.total, self.images = name, 0, 0, 0
        self.step: Step | None = None
        self._losses: deque[Mapping[str, float]] = deque(maxlen=MEAN)
        self._marks: deque[tuple[float, int, int]] = deque()  # seconds, done and images then

    def report(self, done: int, total: int) -> None:
        """Note that so much is done."""
        self.done, self.total = done, total

    def note(self, step: Step) -> None:
        """Note the losses and images of a step."""
        self.step = step
        self.images += step.images
        self._losses.append(step.losses)

    def mark(self, now: float) -> None:
        """Remember how far the work is, for its speed."""
        if not self._marks or now - self._marks[-1][0] >= MARK:
            self._marks.append((now, self.done, self.images))
            while now - self._marks[0][0] > WINDOW:
                self._marks.popleft()

    def content(self, now: float) -> dict[str, Any]:
        """Return what status.json says of the work."""
        then, done, images = self._marks[0] if self._marks else (now, 0, 0)
        speed = (self.done - done) / (now - then) if now > then else 0.0
        step = self.step
        names = dict.fromkeys(name for each in self._losses for name in each)
        by_name = {name: [each[name] for each in self._losses if name in each] for name in names}
        return {"work": self.name, "step": self.done, "steps": self.total, "epoch": step and step.epoch,
                "losses": dict(step.losses) if step else {},
                "mean_losses": {name: sum(values) / len(values) for name, values in by_name.items()},
                "learning_rate": step and step.learning_rate, "steps_per_second": speed or None,
                "images_per_second": (self.images - images) / (now - then) if speed and self.images else None,
                "eta_seconds": (self.total - self.done) / speed if speed else None}  # fmt: skip


class _Session:
    """Status of one stage in the first process, written by a thread."""

    def __init__(self, run: Any, stage: str, processes: int, background: Background) -> None:
        self._folder, self._device, self._stage, self._background = run.home, run.device, stage, background
        self._start, self._written, self._spent = time.monotonic(), -EVERY, _spent(run.home)
        process = psutil.Process()
        self._about = {"processes": processes, "host": socket.gethostname(), "pid": os.getpid(),
                       "process_started": process.create_time()}  # fmt: skip
        self._memory = process.memory_info
        self._work: _Work | None = None

    def bar(self, name: str) -> Update:
        """Return the report of a piece of work."""

        def report(done: int, total: int, note: str) -> None:
            if self._work is None or self._work.name != name or done < self._work.done:
                self._work = _Work(name)
            self._work.report(done, total)
            self._tick()

        return report

    def log(self, name: str) -> Callable[[Step], None]:
        """Return the report of a training's steps, each of which comes after that of its bar."""
        return lambda step: None if self._work is None else self._work.note(step)

    def _tick(self) -> None:
        now = time.monotonic()
        assert self._work is not None
        self._work.mark(now)
        if now - self._written >= EVERY and not self._background.busy:
            self._written = now
            content = self._content("running", now)
            self._background.begin(lambda: self._write(content))

    def end(self, state: str, error: str | None = None) -> None:
        """Write how the stage ended, if it did any work."""
        self._background.wait()
        if self._work is not None:
            self._write(self._content(state, time.monotonic()) | ({} if error is None else {"error": error}))

    def _content(self, state: str, now: float) -> dict[str, Any]:
        assert self._work is not None
        spent = self._spent | {self._stage: self._spent.get(self._stage, 0.0) + now - self._start}
        return {"state": state, "stage": self._stage, **self._work.content(now), "spent_seconds": spent}

    def _write(self, content: dict[str, Any]) -> None:
        cuda = self._device.type == "cuda"
        content |= {"memory_bytes": self._memory().rss,
                    "gpu_memory_bytes": torch.cuda.max_memory_allocated(self._device) if cuda else None,
                    "checkpoint": newest_checkpoint(self._folder), **self._about, "time": time.time()}  # fmt: skip
        with contextlib.suppress(OSError):  # whatever the run has to write next will say so
            write_json(self._folder / STATUS, header(KIND) | content)


# The session at work; a stage inside another one reports to it.
_open: list[_Session] = []


@contextlib.contextmanager
def reporting(run: Any, stage: str) -> Iterator[None]:
    """Write status.json in the folder of a run while the body, a stage of it, reports progress; at most every two seconds.

    The first process writes; a rehearsal and a stage inside another one write none of their own.
    """
    rank, processes = rank_and_size(None)
    if rank > 0 or run.rehearsal or _open:
        yield
        return
    shown = run.progress
    with Background() as background:
        session = _Session(run, stage, processes, background)
        run.progress = shown.also(Progress(session.bar, session.log))
        _open.append(session)
        try:
            yield
        except Exception as error:
            session.end("failed", " ".join(str(error).split()) or type(error).__name__)
            raise
        except BaseException:
            session.end("stopped")
            raise
        else:
            session.end("done")
        finally:
            _open.pop()
            run.progress = shown


def read_status(folder: Path) -> dict[str, Any] | None:
    """Read status.json of a run's folder; None where there is none, or none that can be read."""
    try:
        return read_json(folder / STATUS, KIND)
    except InputError:
        return None


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the `path` in the run's folder, `step`, `steps` and `time` of its newest checkpoint; None without one."""
    found = []
    for pattern in (LAST, f"*/{LAST}", f"*/*/{LAST}"):  # of the run, a member, a retraining
        with contextlib.suppress(OSError):
            found += [(path.stat().st_mtime, path) for path in folder.glob(pattern)]
    if not found:
        return None
    written, path = max(found)
    try:
        metadata = read_metadata(path, CHECKPOINT)
    except InputError:
        return None
    return {
        "path": path.relative_to(folder).as_posix(),
        "step": metadata["step"],
        "steps": metadata["steps"],
        "time": written,
    }


def _spent(folder: Path) -> dict[str, float]:
    before = read_status(folder)
    return {} if before is None else before["spent_seconds"]
