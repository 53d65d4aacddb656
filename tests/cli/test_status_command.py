"""`pynas status`: the table, JSON and --watch, of runs that work, ended, or are none."""

import json
import os
import shutil
import socket
import time

import psutil
import pytest
from typer.testing import CliRunner

from pynas.cli import app, status
from pynas.errors import InputError

pytestmark = pytest.mark.integration


@pytest.fixture
def at_work(run_copy, wide):
    """A run in whose folder this process trains, as status.json says, and the function that changes the latter."""
    path = run_copy / "status.json"
    content = json.loads(path.read_text()) | {
        "state": "running", "stage": "train", "work": "train supernet", "step": 1200, "steps": 4000, "epoch": 3,
        "losses": {"kl": 0.5}, "mean_losses": {"kl": 0.625}, "learning_rate": 0.002, "steps_per_second": 2.0,
        "images_per_second": 128.0, "eta_seconds": 1400.0, "spent_seconds": {"train": 600.0}, "memory_bytes": 2e9,
        "gpu_memory_bytes": 3e9, "host": socket.gethostname(), "pid": os.getpid(),
        "process_started": psutil.Process().create_time(), "time": time.time(),
    }  # fmt: skip

    def write(**changes):
        path.write_text(json.dumps(content | changes))

    write()
    return run_copy, write


def rows(text):
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in text.splitlines() if "│" in line]
    return dict(cells)


def test_a_run_at_work(at_work, pynas):
    folder, _ = at_work
    said = rows(pynas("status", folder))
    assert said["process"].startswith(f"at work ({os.getpid()} on {socket.gethostname()}; written ")
    assert said["stage"] == "train: train supernet" and said["step"] == "1,200 of 4,000, epoch 3"
    assert (
        said["to go"] == "23.3 min" and said["losses (mean)"] == "kl 0.5 (0.625)" and said["learning rate"] == "0.002"
    )
    assert said["speed"] == "2 steps/s, 128 images/s" and said["time spent"] == "train 10.0 min"
    assert said["memory"] == "2.00GB, at most 3.00GB of the GPU"
    assert said["checkpoint"].startswith("step 6 of 6 at ") and said["checkpoint"].endswith(
        "checkpoints/last.safetensors"
    )
    assert (
        said["done"] == "training finished; 4 of 4 blocks rated" and said["made"] == "search.json, subnet.safetensors"
    )


def test_a_run_that_ended(at_work, pynas):
    folder, write = at_work
    write(pid=2**22 + 1)
    said = rows(pynas("status", folder))
    assert said["process"].startswith(f"ended without a word; the same command with --run {folder} goes on")
    assert "to go" not in said
    write(host="elsewhere", time=time.time() - 100)
    assert rows(pynas("status", folder))["process"].startswith("no news since 20")
    write(state="failed", error="No [space] left")
    assert rows(pynas("status", folder))["process"].startswith("failed: No [space] left (")


def test_what_a_run_itself_wrote(whole_run, pynas):
    content = pynas("status", whole_run, "--json")
    assert content["status"]["state"] == "done" and content["process"] in ("between", "done")
    assert content["members"] == [
        {"folder": "", "step": 6, "steps": 6, "blocks": 4, "blocks_trained": 0, "blocks_rated": 4}
    ]
    assert content["search"] and content["subnet"] and set(content["status"]["spent_seconds"]) >= {"train", "rate"}


def test_without_status_json(run_copy, pynas):
    (run_copy / "status.json").unlink()
    shutil.rmtree(run_copy / "scores")
    said = rows(pynas("status", run_copy))
    assert said["process"] == "never reported" and said["done"] == "training finished; 0 of 4 blocks rated"


def test_watching_ends_with_the_run(at_work, pynas, monkeypatch):
    folder, write = at_work
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            write(step=2500)
        if len(looks) == 3:
            write(state="stopped", step=2600)

    monkeypatch.setattr(status.time, "sleep", sleep)
    said = pynas("status", folder, "--watch")
    assert looks == [status.EVERY] * 3
    assert "2,600 of 4,000" in said and "stopped; the same command" in said


def test_what_is_refused(tmp_path, whole_run):
    with pytest.raises(InputError, match=r"\[status\] expected --watch or --json, got both"):
        CliRunner().invoke(app, ["status", str(whole_run), "--watch", "--json"], catch_exceptions=False)
    with pytest.raises(InputError, match=r"expected a run's folder, got .*nothing"):
        CliRunner().invoke(app, ["status", str(tmp_path / "nothing")], catch_exceptions=False)
