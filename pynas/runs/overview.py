"""Overview of a run's folder, from anywhere: how far each stage is, and whether a process still works there."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from pynas import spaces
from pynas.errors import InputError
from pynas.rating.scores import block_file
from pynas.runs.settings import member_folder, read_settings
from pynas.runs.status import newest_checkpoint, read_status
from pynas.tensor_files import read_metadata
from pynas.train.checkpoint import CHECKPOINT, LAST

# Seconds without a new status.json after which a process on another machine has no news.
SILENT = 60.0


def overview(folder: Path) -> dict[str, Any]:
    """Gather what the files of a run say, without a lock and without writing.

    `status`: content of status.json, None where there is none that can be read; `process`: see `process_state`; `members`:
    stages of each seed, see `_member`; `search`, `subnet`: whether these are made; `retrained`: folders of finished trainings
    of single networks; `checkpoint`: the newest one, see `pynas.runs.status.newest_checkpoint`.

    Raises:
        InputError: a folder that is no run's, or settings that cannot be read.
    """
    settings, status = read_settings(folder), read_status(folder)
    blocks = len(spaces.get(settings.space))
    names = ["", *map(member_folder, settings.further_seeds)]
    reports = [*folder.glob("retraining/*/report.json"), *folder.glob("finetuning/*/report.json")]
    return {"run": str(folder), "method": settings.method, "space": settings.space, "data": settings.data,
            "process": process_state(status), "status": status, "members": [_member(folder, name, blocks) for name in names],
            "search": (folder / "search.json").exists(), "subnet": (folder / "subnet.safetensors").exists(),
            "retrained": sorted(path.parent.relative_to(folder).as_posix() for path in reports),
            "checkpoint": newest_checkpoint(folder)}  # fmt: skip


def process_state(status: dict[str, Any] | None) -> str:
    """Return running, silent, gone, done, stopped, failed, or unknown (without a status).

    running: a process works. gone: it ended without a word, as a killed one. silent: of another machine, no news for a
    minute. done, stopped, failed: the stage's end, which the process wrote; `between` stages of one command it still lives.
    """
    if status is None:
        return "unknown"
    here, age = status["host"] == socket.gethostname(), time.time() - status["time"]
    alive = _is_alive(status["pid"], status["process_started"]) if here else age <= SILENT
    if status["state"] == "running":
        return "running" if alive else ("gone" if here else "silent")
    return "between" if status["state"] == "done" and alive and age <= SILENT else status["state"]


def _is_alive(pid: int, started: float) -> bool:
    """Whether the process still runs; a later one may have its number, and its start is known to a few seconds."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 5
    return False


def _member(folder: Path, name: str, blocks: int) -> dict[str, Any]:
    """Return a seed's `step` and `steps` of the training, None where unknown, and its blocks trained alone and rated."""
    own = folder / name
    rated = sum(block_file(own / "scores", b).exists() for b in range(blocks))
    trained = sum((own / "checkpoints" / f"block_{b + 1}.safetensors").exists() for b in range(blocks))
    metadata: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        metadata = read_metadata(own / LAST, CHECKPOINT)
    return {"folder": name, "step": metadata.get("step"), "steps": metadata.get("steps"), "blocks": blocks,
            "blocks_trained": trained, "blocks_rated": rated}  # fmt: skip
