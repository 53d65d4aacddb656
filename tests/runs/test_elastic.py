"""`torchrun --max-restarts`: a worker is killed, the others are started anew, and the result is that of an undisturbed run."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration]
TRAIN = ["--epochs", "4", "--limit-images", "400", "--batch-size", "40", "--device", "cpu"]


def torchrun(*words):
    """Start a command of pynas in two processes, which may be started twice more."""
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts",
        "2",
        "--nproc-per-node",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*start, "-m", "--", "pynas", *words], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def status(folder):
    try:
        return json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {"stage": None}


def kill(agent, rank):
    """Kill a worker, and return its number."""
    for child in psutil.Process(agent.pid).children():
        if child.environ().get("RANK") == str(rank):
            child.kill()
            return child.pid
    raise AssertionError("no such worker")


def wait_for(condition, agent):
    """Wait until a condition holds, while torchrun is at work."""
    until = time.monotonic() + 300
    while not condition():
        assert agent.poll() is None and time.monotonic() < until, agent.communicate()[0]
        time.sleep(0.02)


def finish(agent):
    said, _ = agent.communicate(timeout=600)
    assert agent.returncode == 0, said
    return said


def in_training(folder):
    """Whether a training is in its second epoch or later, and has a checkpoint."""
    now = status(folder)
    return now["stage"] == "train" and (now["epoch"] or 0) >= 2 and (folder / "checkpoints/last.safetensors").exists()


def in_rating(folder):
    """Whether a rating is within a block after the first."""
    return status(folder)["stage"] == "rate" and (folder / "scores/block_1.npz").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of two processes that were left alone."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(torchrun("train", "--run", str(folder), *TRAIN))
    finish(torchrun("rate", "--run", str(folder)))
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.timeout(900)
def test_a_training_goes_on_after_a_worker_was_killed(undisturbed, tmp_path, rank):
    folder = tmp_path / "run"
    agent = torchrun("train", "--run", str(folder), *TRAIN)
    wait_for(lambda: in_training(folder), agent)
    kill(agent, rank)
    assert "SIGTERM" in finish(agent)  # torchrun ended the other one
    for name in ("checkpoints/last.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert status(folder)["state"] == "done" and status(folder)["step"] == status(folder)["steps"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.timeout(900)
def test_a_rating_goes_on_after_a_worker_was_killed(undisturbed, tmp_path, rank):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(folder / "scores")
    agent = torchrun("rate", "--run", str(folder))
    wait_for(lambda: in_rating(folder), agent)
    kill(agent, rank)
    assert "SIGTERM" in finish(agent)
    for block in range(1, 5):
        ours, theirs = (
            np.load(path / f"scores/block_{block}.npz", allow_pickle=False) for path in (folder, undisturbed)
        )
        assert ours.files == theirs.files and all(np.array_equal(ours[name], theirs[name]) for name in ours.files)
    assert sorted(path.name for path in (folder / "scores").iterdir()) == [
        f"block_{block}.npz" for block in range(1, 5)
    ]
