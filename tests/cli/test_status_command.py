"""`pynas status`: how far a run is, from its files alone."""

import json
import shutil
import sys
import time

import pytest

from pynas.cli import main
from pynas.runs.overview import overview, process_state
from pynas.runs.status import KIND

pytestmark = pytest.mark.integration


@pytest.fixture
def run_folder(whole_run, tmp_path):
    return shutil.copytree(whole_run, tmp_path / "run")


def test_a_finished_run(run_folder, pynas):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    said = pynas("status", run_folder, "--json")
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before  # reads only
    steps = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    (member,) = said["members"]
    assert (member["step"], member["steps"], member["blocks_rated"]) == (steps, steps, 4)
    assert said["search"] and said["subnet"] and said["checkpoint"]["step"] == steps
    assert said["status"]["format"] == KIND and said["status"]["spent_seconds"].keys() >= {"train", "rate"}
    text = pynas("status", run_folder)
    for part in ("training finished; 4 of 4 blocks rated", "search.json, subnet.safetensors", "time spent"):
        assert part in " ".join(text.split())


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process_started": 1.0}, "gone"),  # another process has the number now
        ({"host": "elsewhere"}, "running"),
        ({"host": "elsewhere", "time": time.time() - 100}, "silent"),
        ({"state": "done"}, "between"),
        ({"state": "done", "process_started": 1.0}, "done"),
        ({"state": "failed", "process_started": 1.0}, "failed"),
        ({"state": "stopped", "process_started": 1.0}, "stopped"),
    ],
)
def test_whether_a_process_works(changes, state):
    import os
    import socket

    import psutil

    own = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": psutil.Process().create_time()}
    assert process_state({"state": "running", "time": time.time(), **own, **changes}) == state
    assert process_state(None) == "unknown"


def test_without_a_status_the_other_files_speak(run_folder, pynas):
    for content in ("{", ""):
        (run_folder / "status.json").write_text(content)
        said = overview(run_folder)
        assert said["process"] == "unknown" and said["status"] is None and said["checkpoint"] is not None
    (run_folder / "checkpoints" / "last.safetensors").unlink()
    (run_folder / "scores" / "block_2.npz").unlink()
    text = " ".join(pynas("status", run_folder).split())
    assert "never reported" in text and "no checkpoint of the training; 3 of 4 blocks rated" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere"], "expected a run's folder, got nowhere"), (["nowhere", "--watch", "--json"], "--watch or --json")],
)
def test_bad_use_is_one_line(monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["pynas", "status", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "\n" not in error
