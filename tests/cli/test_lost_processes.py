"""Processes that cannot be reached, or that die: one line each, and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pynas.cli import main

pytestmark = pytest.mark.integration
SECOND = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "PYNAS_TIMEOUT": "1"}
FIRST = SECOND | {"RANK": "0", "MASTER_PORT": "29731"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            SECOND,
            r"reach 127.0.0.1:1 as process 1 of 2, got: .*timed out after 1000ms.*; check that the first machine ",
        ),
        (FIRST, r"reach 127.0.0.1:29731 as process 0 of 2, got: Timed out .*1/2 clients joined; check that "),
        (SECOND | {"MASTER_ADDR": ""}, "got: .*environment variable MASTER_ADDR expected, but not set; "),
        ({"WORLD_SIZE": "two"}, "a whole number in the environment's WORLD_SIZE, got 'two'; start with torchrun"),
        ({"WORLD_SIZE": "2"}, "a whole number in the environment's RANK, got None; start with torchrun"),
        (SECOND | {"RANK": "-1"}, "a whole number in the environment's RANK, got '-1'; "),
        (SECOND | {"RANK": "2"}, "RANK below WORLD_SIZE, 2, got 2; "),
        (SECOND | {"PYNAS_TIMEOUT": "1h"}, "a whole number in the environment's PYNAS_TIMEOUT, got '1h'; "),
    ],
)
def test_one_line(environment, said, tmp_path, monkeypatch, capsys):
    for name in SECOND:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["pynas", "train", "--data", "digits", "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and re.search(said, line) and line.startswith("pynas: [processes] ")
    assert not (tmp_path / "run").exists()


def start(rank: int, folder: Path, **environment: str) -> subprocess.Popen:
    """Start one of two processes, as a cluster's launcher does."""
    words = [
        "train",
        "--data",
        "digits",
        "--limit-images",
        "320",
        "--epochs",
        "30",
        "--batch-size",
        "32",
        "--run",
        folder,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **SECOND, "RANK": str(rank), **environment}
    command = [sys.executable, "-m", "pynas", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_torch_says_nothing_beside_the_line(tmp_path):
    """torch's C++ prints stack traces of connections that fail, unless its level of logging is set."""
    process = start(1, tmp_path / "run")
    output, error = process.communicate(timeout=100)
    assert process.returncode == 2 and output == "" and error.count("\n") == 1
    assert error.startswith("pynas: [processes] expected to reach 127.0.0.1:1 ")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_is_killed(tmp_path, killed):
    """The other one says so at once."""
    folder = tmp_path / "run"
    both = [start(rank, folder, MASTER_PORT="29732", PYNAS_TIMEOUT="100") for rank in range(2)]
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "last.safetensors").exists():
        assert both[0].poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    both[killed].kill()
    error = both[1 - killed].communicate(timeout=50)[1]
    both[killed].communicate()
    lines = [line for line in error.splitlines() if not line.startswith(("train ", "Recipe "))]
    assert both[1 - killed].returncode == 2 and len(lines) == 1, error
    assert lines[0].startswith(
        f"pynas: [processes] expected 2 processes to the end, got process {1 - killed} that lost "
    )
    assert "Connection " in lines[0] and lines[0].endswith(
        f"all files are whole, and the same command with --run {folder} goes on"
    )
