"""status.json: what a run says of itself while it works, and what is read from its folder from elsewhere."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from pynas import runs
from pynas.errors import InputError
from pynas.runs import overview as overview_module
from pynas.runs import status as status_module
from pynas.runs.lock import hold
from pynas.runs.overview import overview
from pynas.runs.progress import Progress
from pynas.runs.retrain import Request, retrain
from pynas.runs.status import read_status, reporting
from pynas.train import Step

FEW = {"data": "digits", "limit_images": 100, "batch_size": 20}


class Stand:
    """A run as far as the status asks."""

    rehearsal = False

    def __init__(self, home):
        self.home, self.device, self.progress = home, torch.device("cpu"), Progress()


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on as told; files are written when they are due."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(status_module.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(status_module, "Background", AtOnce)
    return Clock


class AtOnce:
    """A background that does the work in the foreground."""

    busy = False

    def begin(self, work):
        work()

    def wait(self): ...

    def __enter__(self):
        return self

    def __exit__(self, *ended): ...


def test_numbers_of_a_training(tmp_path, clock):
    """Steps of two seconds on 8 images: losses 1, 2, 3, ... of 200 steps."""
    with reporting(run := Stand(tmp_path), "train"):
        report = run.progress.named("seed_1").steps()
        for number in range(1, 151):
            clock.now += 2.0
            report(Step(number, 200, 1 + number // 100, {"kl": float(number)}, 0.5, images=8))
    now = read_status(tmp_path)
    assert (now["state"], now["stage"], now["work"]) == ("done", "train", "seed_1: train supernet")
    assert (now["step"], now["steps"], now["epoch"], now["learning_rate"]) == (150, 200, 2, 0.5)
    assert now["losses"] == {"kl": 150.0} and now["mean_losses"] == {"kl": pytest.approx(sum(range(51, 151)) / 100)}
    assert now["steps_per_second"] == pytest.approx(0.5) and now["images_per_second"] == pytest.approx(4.0, rel=0.05)
    assert now["eta_seconds"] == pytest.approx(100.0) and now["spent_seconds"] == {"train": 300.0}
    assert now["memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
    assert now["gpu_memory_bytes"] is None and now["checkpoint"] is None
    assert (now["pid"], now["host"]) == (os.getpid(), socket.gethostname()) and abs(now["time"] - time.time()) < 60


def test_the_speed_is_that_of_the_last_minute(tmp_path, clock):
    with reporting(run := Stand(tmp_path), "rate"):
        report = run.progress.count()
        for number in range(1, 101):
            clock.now += 1.0 if number <= 30 else 10.0
            report(number, 1000)
    now = read_status(tmp_path)
    assert now["steps_per_second"] == pytest.approx(0.1) and now["eta_seconds"] == pytest.approx(9000)
    assert now["images_per_second"] is None and now["losses"] == {} and now["epoch"] is None


def test_it_is_written_every_two_seconds_at_most(tmp_path, clock, monkeypatch):
    written = []
    monkeypatch.setattr(status_module, "write_json", lambda path, content: written.append(content["step"]))
    with reporting(run := Stand(tmp_path), "train"):
        report = run.progress.count()
        for number in range(1, 11):
            report(number, 10)
            clock.now += 0.5
    assert written == [1, 5, 9, 10]


def test_time_adds_up_over_starts(tmp_path, clock):
    for stage, seconds in (("train", 3.0), ("train", 4.0), ("rate", 5.0)):
        with reporting(run := Stand(tmp_path), stage):
            clock.now += seconds
            run.progress.count()(1, 1)
    assert read_status(tmp_path)["spent_seconds"] == {"train": 7.0, "rate": 5.0}
    (tmp_path / "status.json").write_text('{"half')
    with reporting(run := Stand(tmp_path), "rate"):
        run.progress.count()(1, 1)
    assert read_status(tmp_path)["spent_seconds"] == {"rate": 0.0}


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [(InputError("a\nb"), "failed", "a b"), (KeyboardInterrupt(), "stopped", None), (OSError(), "failed", "OSError")],
)
def test_how_a_stage_ended(tmp_path, clock, error, state, said):
    shown = Progress()
    for worked in (False, True):
        run = Stand(tmp_path)
        run.progress = shown
        with pytest.raises(type(error)), reporting(run, "train"):
            if worked:
                run.progress.count()(1, 2)
            raise error
        assert run.progress is shown and (tmp_path / "status.json").exists() == worked
    now = read_status(tmp_path)
    assert now["state"] == state and now.get("error") == said


def test_a_disk_that_is_full_ends_no_training(tmp_path, clock, monkeypatch):
    def full(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(status_module, "write_json", full)
    with reporting(run := Stand(tmp_path), "train"):
        run.progress.count()(1, 1)


def test_a_report_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    import threading

    may, in_time = threading.Event(), []
    monkeypatch.setattr(status_module, "write_json", lambda path, content: in_time.append(may.wait(30)))
    with reporting(run := Stand(tmp_path), "train"):
        run.progress.count()(1, 2)
        may.set()
    assert in_time == [True, True]


def test_stages_of_a_run_report_and_the_user_still_sees_progress(tmp_path):
    shown = []
    folder = tmp_path / "run"
    run = runs.create(
        folder, **FEW, epochs=1, seeds=2, progress=Progress(lambda name: lambda *report: shown.append(name))
    )
    run.train()
    trained = read_status(folder)
    assert (trained["stage"], trained["work"], trained["state"]) == ("train", "seed_1: train supernet", "done")
    assert trained["step"] == trained["steps"] == 4 and set(trained["losses"]) >= {"block_1", "block_4"}
    assert trained["checkpoint"]["path"] == "seed_1/checkpoints/last.safetensors" and trained["checkpoint"]["step"] == 4
    assert not (folder / "seed_1/status.json").exists() and "seed_1: train supernet" in shown
    run.rate()
    rated = read_status(folder)
    assert (rated["stage"], rated["work"]) == ("rate", "seed_1: rate paths") and rated["step"] == rated["steps"] > 4
    drawn = str(run.space.sample(np.random.default_rng(0)))
    retrain(run, Request(recipe="small", epochs=1, batch_size=20, architecture=drawn))
    again = read_status(folder)
    assert (again["stage"], again["work"], again["state"]) == ("retrain", "retrain", "done")
    assert set(again["spent_seconds"]) == {"train", "rate", "retrain"}
    content = overview(folder)
    assert content["retrained"] == ["retraining/small-scratch"] and content["checkpoint"]["path"].startswith(
        "retraining/"
    )
    for member, name in zip(content["members"], ("", "seed_1")):
        assert member == {"folder": name, "step": 4, "steps": 4, "blocks": 4, "blocks_trained": 0, "blocks_rated": 4}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of which one block of two is rated, after a training that was killed."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    code = "\n".join([
        "import os, signal",
        "from pynas import runs",
        "from pynas.runs.progress import Progress",
        "def bar(name):",
        "    return lambda done, total, note: name == 'train supernet' and done == 6 and os.kill(os.getpid(), signal.SIGKILL)",
        f"runs.create({str(folder)!r}, **{FEW!r}, epochs=2, progress=Progress(bar)).train()",
    ])  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    return folder


def test_a_killed_run_is_gone(begun):
    content = overview(begun)
    assert content["process"] == "gone" and content["status"]["state"] == "running" and not content["search"]
    assert content["members"][0]["step"] == content["checkpoint"]["step"] == 4 and content["members"][0]["steps"] == 8


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"pid": os.getpid(), "process_started": psutil.Process().create_time()}, "running"),
        ({"pid": os.getpid(), "process_started": 12.0}, "gone"),  # another process has its number
        ({"host": "elsewhere", "time": -30.0}, "running"),
        ({"host": "elsewhere", "time": -90.0}, "silent"),
        ({"state": "stopped"}, "stopped"),
        ({"state": "done", "host": "elsewhere", "time": -5.0}, "between"),
        ({"state": "done", "host": "elsewhere", "time": -90.0}, "done"),
        ({"state": "done"}, "done"),
    ],
)
def test_whether_a_process_works(begun, changes, state):
    status = read_status(begun)
    status |= {**changes, "time": time.time() + changes.get("time", 0.0)}
    assert overview_module.process_state(status) == state


@pytest.mark.parametrize("content", [None, "", '{"format": "pynas.status", "ver', "[]", '{"format": "other"}'])
def test_without_a_status_the_other_files_are_read(begun, tmp_path, content):
    folder = shutil.copytree(begun, tmp_path / "run")
    (folder / "status.json").unlink()
    if content is not None:
        (folder / "status.json").write_text(content)
    (folder / "scores").mkdir()
    (folder / "scores" / "block_1.npz").touch()
    said = overview(folder)
    assert said["status"] is None and said["process"] == "unknown"
    assert said["checkpoint"]["step"] == 4 and said["members"][0]["blocks_rated"] == 1
    (folder / "checkpoints/last.safetensors").write_bytes(b"half")
    assert overview(folder)["checkpoint"] is None and overview(folder)["members"][0]["step"] is None


def test_an_overview_writes_nothing_and_takes_no_lock(begun):
    before = {path: path.stat().st_mtime_ns for path in [begun, *begun.rglob("*")]}
    overview(begun)
    assert {path: path.stat().st_mtime_ns for path in [begun, *begun.rglob("*")]} == before
    code = f"import pathlib; from pynas.runs.lock import hold; hold(pathlib.Path({str(begun)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"expected a run's folder, got .*, which holds no config\.yaml"):
            overview(folder)


def test_other_images_are_not_refused_because_of_a_status(tmp_path):
    run = runs.create(tmp_path / "run", **FEW)
    run.data  # noqa: B018 (records the images)
    (tmp_path / "run/status.json").write_text("{}")
    record = tmp_path / "run/data.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"fingerprint": "other"}))
    assert runs.load(tmp_path / "run").data.fingerprint == content["fingerprint"]


def test_a_forked_reader_of_images_keeps_no_lock(tmp_path):
    """The process that holds the folder is killed while its child lives on."""
    code = "\n".join([
        "import os, pathlib, signal, time",
        "from pynas.runs.lock import hold",
        f"hold(pathlib.Path({str(tmp_path)!r}))",
        "child = os.fork()",
        "if child == 0: time.sleep(60)",
        "print(child, flush=True)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ])  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.wait()
    parent.stdout.close()
    try:
        hold(tmp_path)
    finally:
        child.kill()
