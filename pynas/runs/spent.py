"""Time that the training and the rating of a run took, over all its sessions and processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pynas.files import header, read_json, write_json
from pynas.rating.distributed import rank_and_size
from pynas.runs.settings import member_folder, read_settings

SPENT, FILE = "pynas.spent", "spent.json"
# Seconds between two writes while a stage works: a killed process loses at most these.
EVERY = 10.0


class _Session:
    """Clock of one stage in one process; its time is that of all processes that work together."""

    def __init__(self, run: Any, stage: str, processes: int):
        self._path, self._before = run.folder / FILE, _sessions(run.folder)
        kind = run.device.type
        device = torch.cuda.get_device_name(run.device) if kind == "cuda" else kind.upper()
        self._about, self._processes = {"stage": stage, "device": device, "processes": processes}, processes
        self.start = self._written = time.monotonic()
        self.worked = False

    def tick(self) -> None:
        """Note that the stage works; write the time now and then."""
        self.worked = True
        if _open[-1] is self and time.monotonic() - self._written >= EVERY:
            self.write()

    def write(self) -> None:
        """Write the sessions before, and this one so far."""
        self._written = time.monotonic()
        entry = self._about | {"seconds": (self._written - self.start) * self._processes}
        write_json(self._path, header(SPENT) | {"sessions": [*self._before, entry]})


# Sessions at work, the innermost last: generations of a run train inside its search.
_open: list[_Session] = []


@contextlib.contextmanager
def spending(run: Any, stage: str) -> Iterator[None]:
    """Add the time of the body to spent.json in the run's folder, as `stage` (train or rate), where it reports progress.

    An interrupted body counts up to its end, a killed or a failed one up to the last write; a body inside another counts once.
    """
    rank, processes = rank_and_size(None)
    if rank > 0:
        yield
        return
    session, shown = _Session(run, stage, processes), run.progress
    run.progress = shown.ticking(session.tick)
    _open.append(session)
    try:
        yield
    except Exception:  # as a full disk: files stay as they are
        session.worked = False
        raise
    finally:
        _open.pop()
        run.progress = shown
        if _open:
            _open[-1].start += time.monotonic() - session.start
        if session.worked:
            session.write()


def search_cost(folder: Path) -> dict[str, Any] | None:
    """Return `train_seconds` and `rate_seconds` of a run, `device` and `processes` (the most); None where none were written.

    Seconds are those of all processes together, of all seeds and generations. The trainings of BossNAS rate, too.
    """
    members = [member_folder(seed) for seed in read_settings(folder).further_seeds]
    parts = [folder, *(folder / name for name in members), *sorted(folder.glob("generation_*"))]
    sessions = [session for part in parts for session in _sessions(part)]
    seconds = {
        stage: sum(each["seconds"] for each in sessions if each["stage"] == stage) for stage in ("train", "rate")
    }
    if not seconds["train"]:
        return None
    devices = " and ".join(dict.fromkeys(each["device"] for each in sessions))
    return {**{f"{stage}_seconds": value for stage, value in seconds.items()}, "device": devices,
            "processes": max(each["processes"] for each in sessions)}  # fmt: skip


def describe_cost(cost: dict[str, Any]) -> str:
    """Write a search cost in a few words, as `0.4 h CPU (2 processes)`."""
    hours = (cost["train_seconds"] + cost["rate_seconds"]) / 3600
    several = f" ({cost['processes']} processes)" if cost["processes"] > 1 else ""
    return f"{hours:{',.1f' if hours >= 1 else '.2g'}} h {cost['device']}{several}"


def _sessions(folder: Path) -> list[dict[str, Any]]:
    path = folder / FILE
    return read_json(path, SPENT)["sessions"] if path.exists() else []
