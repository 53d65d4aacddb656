"""Steps of a long session on a machine that is lent for minutes: no step hangs, hides another's failure, or loses its record.

Standard library alone: it has to run, and to say so, where everything else is missing.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRACE = 10.0  # seconds between the request to stop and the end of a step's processes
RECORD, LOG = "steps.json", "gpu.log"


@dataclass(frozen=True)
class Step:
    """One command: its time limit in seconds, and the steps that must have been tried before it."""

    name: str
    command: Sequence[str]
    seconds: float
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    keep: Path | None = None  # a folder to pack when the step has ended, however it ended


def chosen(steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    """Return the steps of these names, each behind those that it comes after.

    A name that ends with "-" stands for all steps that begin with it.

    Raises:
        ValueError: an unknown name.
    """
    known = {step.name: step for step in steps}
    order: dict[str, Step] = {}

    def add(step: Step) -> None:
        for name in step.after:
            add(known[name])
        order.setdefault(step.name, step)

    for name in wanted:
        found = [step for step in steps if step.name == name or (name.endswith("-") and step.name.startswith(name))]
        if not found:
            raise ValueError(f"expected steps of {', '.join(known)}, got {name!r}")
        for step in found:
            add(step)
    return list(order.values())


class Session:
    """Runs steps within a total of `budget` seconds; FOLDER/steps.json is whole after each, FOLDER/gpu.log has their output."""

    def __init__(
        self,
        folder: Path,
        budget: float,
        about: Mapping[str, Any],
        pack: Callable[[Path, Path], object] | None = None,
    ) -> None:
        self.folder, self.pack = folder, pack
        self.begun, self.budget = time.monotonic(), budget
        self.cut = False  # a signal's handler sets it: the step that runs is ended and packed, the others are left out
        self.record: dict[str, Any] = {**about, "budget": budget, "steps": []}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).write_bytes(b"")

    def run(self, steps: Sequence[Step]) -> bool:
        """Run all of them in order; returns whether every one passed."""
        outcomes = [self.run_one(step) for step in steps]
        width = max((len(step.name) for step in steps), default=0)
        print("\n".join(f"{entry['step']:{width}} {entry['outcome']:8} {entry['seconds']:7.1f} s"
                        for entry in self.record["steps"]))  # fmt: skip
        return all(outcome == "passed" for outcome in outcomes)

    def run_one(self, step: Step) -> str:
        """Run one: passed, failed, stopped (its limit, the session's budget), cut (the session was ended), left out (no time)."""
        start = time.monotonic()
        limit = 0.0 if self.cut else min(step.seconds, self.budget - (start - self.begun))
        entry: dict[str, Any] = {"step": step.name, "command": shlex.join(step.command), "limit": round(limit, 1)}
        self.record["steps"].append(entry)
        if limit < 1:
            entry |= {"outcome": "left out", "seconds": 0.0}
        else:
            print(f"== {step.name}: {entry['command']}", flush=True)
            entry |= {"outcome": "running", "seconds": 0.0}
            self.write()
            before = (self.folder / LOG).stat().st_size
            code = self.call(step, limit)
            outcome = {0: "passed", None: "cut" if self.cut else "stopped"}.get(code, "failed")
            entry |= {"outcome": outcome, "exit": code, "seconds": round(time.monotonic() - start, 1)}
            self.say(entry, before)
        self.end(step, entry)
        return str(entry["outcome"])

    def end(self, step: Step, entry: dict[str, Any]) -> None:
        """Write the record, pack what the step leaves behind, and write how that went."""
        self.write()
        if step.keep is not None and self.pack is not None:
            try:
                self.pack(step.keep, self.folder)
            except Exception as error:  # whatever a folder holds, the next step runs
                entry["packing"] = repr(error)
                print(f"   not packed: {error!r}", flush=True)
        self.write()

    def call(self, step: Step, limit: float) -> int | None:
        """Run the command with its output in the log; the exit status, None when it was stopped."""
        with (self.folder / LOG).open("ab") as log:
            log.write(f"== {step.name}: {shlex.join(step.command)}\n".encode())
            log.flush()
            try:
                process = subprocess.Popen(
                    step.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    env={**os.environ, **step.environment}, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                log.write(f"{error}\n".encode())
                return 127
            deadline = time.monotonic() + limit
            while not self.cut and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            code = process.poll()
            end_group(process)  # what a step leaves running would hold the device against the next one
            return code

    def say(self, entry: dict[str, Any], begin: int) -> None:
        """Print how a step ended, with the end of its output."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()[1:]
        lines = lines[-12 if entry["outcome"] == "passed" else -30 :]
        entry["said"] = [line[:300] for line in lines]
        print(f"   {entry['outcome']} in {entry['seconds']} s")
        print("\n".join(line[:300] for line in lines), flush=True)

    def write(self) -> None:
        """Write steps.json, whole at every moment."""
        path = self.folder / RECORD
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.record, indent=1) + "\n")
        fresh.replace(path)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a step's process and all that it started: asked first, then killed."""
    for sign, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and group_lives(process):
            time.sleep(0.05)
    if process.poll() is None:
        process.wait()


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Return whether any process of the group is left."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
