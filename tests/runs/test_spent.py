"""Time that training and rating took, over sessions, kills, seeds and generations."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pynas import runs
from pynas.runs import spent
from pynas.runs.progress import Progress
from pynas.runs.report import run_page
from pynas.runs.settings import member_folder
from pynas.runs.spent import describe_cost, search_cost, spending

FEW = {"data": "digits", "limit_images": 100, "batch_size": 25}


class Clock:
    """A clock that goes on by so many seconds at each report of a stage."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.reports, self._seconds = 100.0, 0, seconds
        monkeypatch.setattr(spent.time, "monotonic", lambda: self.now)

    def bar(self, name):
        return self.report

    def report(self, done, total, note):
        self.now += self._seconds
        self.reports += 1


def sessions(folder):
    return json.loads((folder / "spent.json").read_text())["sessions"]


def test_sessions_of_training_and_rating_add_up(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch, 2.0), tmp_path / "run"
    run = runs.create(folder, **FEW, epochs=1, progress=Progress(clock.bar))
    assert search_cost(folder) is None
    run.train()
    trained = 2 * clock.reports
    run.rate()
    assert search_cost(folder) == {"train_seconds": trained, "rate_seconds": 2 * clock.reports - trained, "device": "CPU",
                                   "processes": 1}  # fmt: skip
    runs.load(folder).train()  # finished: no step, no time
    assert search_cost(folder)["train_seconds"] == trained
    two = runs.create(folder, seeds=2, progress=Progress(clock.bar))
    before, member = clock.reports, folder / member_folder(1)
    two.train()
    assert search_cost(folder)["train_seconds"] == trained + 2 * (clock.reports - before) and len(sessions(member)) == 1
    seconds = search_cost(folder)["train_seconds"] + search_cost(folder)["rate_seconds"]
    assert f"Training and rating took {seconds / 3600:.2g} h CPU." in run_page(folder)[1]


def test_a_stopped_training_and_steps_done_again_count(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch, 3.0), tmp_path / "run"
    steps = []

    def log(name):
        def stop(step):
            steps.append(step.step)
            if len(steps) == 3:
                raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        runs.create(folder, **FEW, epochs=2, progress=Progress(clock.bar, log)).train()
    first = 3 * clock.reports
    assert [each["seconds"] for each in sessions(folder)] == [first]
    runs.create(folder, progress=Progress(clock.bar, log)).train()
    assert steps[:6] == [1, 2, 3, 1, 2, 3]  # done again, as there was no checkpoint
    assert search_cost(folder)["train_seconds"] == 3 * clock.reports and len(sessions(folder)) == 2


def test_time_inside_another_stage_counts_once_and_failures_write_nothing(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 5.0)
    outer, inner = (runs.create(tmp_path / name, **FEW, progress=Progress(clock.bar)) for name in ("outer", "inner"))
    with spending(outer, "rate"):
        outer.progress.count()(1, 2)
        with spending(inner, "train"):
            inner.progress.count()(1, 1)
        outer.progress.count()(2, 2)
    assert sessions(outer.folder)[0]["seconds"] == 10 and sessions(inner.folder)[0]["seconds"] == 5
    with pytest.raises(ValueError), spending(inner, "train"):
        inner.progress.count()(1, 1)
        raise ValueError
    assert len(sessions(inner.folder)) == 1


def test_a_killed_training_keeps_its_time(tmp_path):
    """SIGKILL leaves no moment to write: what was written while it worked stays."""
    code = ("import sys; from pynas import runs; from pynas.runs import spent; spent.EVERY = 0.0;"
            f"runs.create(sys.argv[1], **{FEW!r}, epochs=500).train()")  # fmt: skip
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    deadline = time.monotonic() + 300
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert search_cost(folder)["train_seconds"] > 0


def test_several_processes_count_together(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 4.0)
    run = runs.create(tmp_path / "run", **FEW, progress=Progress(clock.bar))
    for rank in (0, 1):  # the second process writes nothing
        monkeypatch.setattr(spent, "rank_and_size", lambda distributed, rank=rank: (rank, 2))
        with spending(run, "train"):
            run.progress.count()(1, 1)
    cost = search_cost(run.folder)
    assert cost == {"train_seconds": 8.0, "rate_seconds": 0, "device": "CPU", "processes": 2}
    assert describe_cost(cost | {"train_seconds": 1440}) == "0.4 h CPU (2 processes)"
    assert (
        describe_cost({"train_seconds": 7.2e6, "rate_seconds": 3600, "device": "GPU", "processes": 1})
        == "2,001.0 h GPU"
    )


def test_a_search_by_trial_counts_as_rating(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 1.0)
    run = runs.create(
        tmp_path / "run", method="spos", **FEW, epochs=1, options={"budget": 3}, progress=Progress(clock.bar)
    )
    run.train()
    trained = clock.reports
    run.rate()
    run.search()
    assert search_cost(run.folder)["rate_seconds"] == clock.reports - trained == 3
