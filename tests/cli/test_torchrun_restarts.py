"""torchrun --max-restarts: a run of two processes goes on after one of them is killed, and ends like one that was not disturbed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from pynas.files import read_arrays
from tests.processes import torchrun

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = ["train", "--data", "digits", "--limit-images", "320", "--epochs", "3", "--batch-size", "32", "--run"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(launch: list[str], *words: object, restarts: int = 2) -> list[str]:
    return [*torchrun(*launch, "--max-restarts", restarts, "--nproc-per-node", 2), *map(str, words)]


def undisturbed(*words: object) -> None:
    subprocess.run(command(["--standalone"], *words), env=ENVIRONMENT, check=True, timeout=400)


def disturbed(launch: list[str], when: Callable[[], bool], *words: object) -> None:
    """Run a command line by two processes, and kill the second one when it is time."""
    process = subprocess.Popen(command(launch, *words), env=ENVIRONMENT)
    kill(process, 1, when)
    assert process.wait(timeout=400) == 0


def kill(torchrun: subprocess.Popen, rank: int, when: Callable[[], bool]) -> None:
    """Kill one of torchrun's processes when it is time."""
    deadline = time.monotonic() + 200
    while not when():
        assert torchrun.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (process,) = (each for each in psutil.Process(torchrun.pid).children() if each.environ().get("RANK") == str(rank))
    process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic") / "whole"
    undisturbed(*TRAIN, folder)
    undisturbed("rate", "--run", folder)
    return folder


def scores(folder: Path) -> list[np.ndarray]:
    files = sorted((folder / "scores").glob("block_*.npz"))
    return [array for file in files for array in read_arrays(file, "pynas.block_scores")[0].values()]


@pytest.mark.parametrize("launch", [["--standalone"], ["--master-port", "29517"]], ids=["c10d", "static"])
def test_killed_in_training_and_in_rating(whole: Path, tmp_path: Path, launch: list[str]) -> None:
    folder = tmp_path / "run"
    disturbed(launch, (folder / "checkpoints" / "last.safetensors").exists, *TRAIN, folder)
    for name in ("checkpoints/last.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    disturbed(launch, (folder / "scores" / "block_1.npz").exists, "rate", "--run", folder)
    assert len(scores(whole)) > 3
    for one, other in zip(scores(folder), scores(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_killed_without_restarts(whole: Path, tmp_path: Path) -> None:
    """The other process ends with one line on its stderr, and the same command goes on."""
    folder = tmp_path / "run"
    launch = ["--standalone", "--redirects", "3", "--log-dir", str(tmp_path / "logs")]
    process = subprocess.Popen(command(launch, *TRAIN, folder, restarts=0), env=ENVIRONMENT)
    kill(process, 0, (folder / "checkpoints" / "last.safetensors").exists)
    assert process.wait(timeout=100) == 1
    (error,) = (tmp_path / "logs").rglob("1/stderr.log")
    (line,) = error.read_text().splitlines()
    # torchrun stops it while it notices by itself.
    assert line.startswith(("pynas: [processes] expected 2 processes to the end, got process 1 ", "pynas: stopped; "))
    assert line.endswith(f"--run {folder} goes on")
    undisturbed(*TRAIN, folder)
    for name in ("checkpoints/last.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
