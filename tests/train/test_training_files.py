"""Checkpoints in the background, and the policy of the weights that are kept."""

import json
import signal
import subprocess
import sys
import threading

import pytest
import torch

import pynas
from pynas.errors import InputError
from pynas.tensor_files import read_tensors, write_tensors
from pynas.train import Keep, training_files
from pynas.train.background import Background
from pynas.train.checkpoint import CHECKPOINT, LAST
from tests.killing import Killed, killer
from tests.train.test_fit import Regression, batches, weights

HOLD = 30.0


class SlowWriter:
    """Stands for `write_tensors`; its writes begin when they may."""

    def __init__(self, monkeypatch):
        self.may, self.in_time, self.most, self.now = threading.Event(), [], 0, 0
        monkeypatch.setattr(training_files, "write_tensors", self.write)

    def write(self, *args, **metadata):
        self.now += 1
        self.most = max(self.most, self.now)
        self.in_time.append(self.may.wait(HOLD))
        write_tensors(*args, **metadata)
        self.now -= 1


def test_a_step_does_not_wait_for_the_write(tmp_path, monkeypatch):
    """The write after the first epoch of five steps is held until step 8; it holds the weights of step 5 all the same."""
    at_five = Regression()
    pynas.fit(at_five, batches(), 1, seed=5)  # the rates are those of the first of three epochs
    slow = SlowWriter(monkeypatch)

    def on_step(step):
        if step.step == 8:
            slow.may.set()
            raise Killed

    with pytest.raises(Killed):
        pynas.fit(Regression(), batches(), 3, tmp_path, seed=5, on_step=on_step)
    assert slow.in_time == [True]
    checkpoint = read_tensors(tmp_path / LAST, CHECKPOINT)
    assert checkpoint.metadata["step"] == 5
    assert all(torch.equal(checkpoint.tensors[f"model.{name}"], value) for name, value in weights(at_five).items())


def test_one_write_is_in_flight_at_most(tmp_path, monkeypatch):
    slow = SlowWriter(monkeypatch)
    threading.Timer(0.2, slow.may.set).start()
    pynas.fit(Regression(), batches(), 3, tmp_path, checkpoint_seconds=0.0)
    assert slow.most == 1 and len(slow.in_time) == 18 and all(slow.in_time)
    assert read_tensors(tmp_path / LAST, CHECKPOINT).metadata["step"] == 15


@pytest.mark.parametrize(("bad", "ended"), [(1, 10), (2, 15), (3, 15)])
def test_an_error_of_the_writer_comes_out_at_the_next_checkpoint(tmp_path, monkeypatch, bad, ended):
    writes, steps = [], []

    def write(*args, **metadata):
        writes.append(metadata["step"])
        if len(writes) == bad:
            raise OSError("No space left on device")
        write_tensors(*args, **metadata)

    monkeypatch.setattr(training_files, "write_tensors", write)
    with pytest.raises(OSError, match="No space left"):
        pynas.fit(Regression(), batches(), 3, tmp_path, on_step=steps.append)
    assert len(steps) == ended
    monkeypatch.undo()
    method, whole = Regression(), Regression()
    pynas.fit(method, batches(), 3, tmp_path)
    pynas.fit(whole, batches(), 3)
    assert all(torch.equal(value, weights(method)[name]) for name, value in weights(whole).items())


def test_an_error_of_the_writer_is_a_warning_where_another_ends_the_training(tmp_path, monkeypatch):
    def write(*args, **metadata):
        raise OSError("No space left on device")

    monkeypatch.setattr(training_files, "write_tensors", write)
    with pytest.warns(UserWarning, match="not written: No space left"), pytest.raises(Killed):
        pynas.fit(Regression(), batches(), 3, tmp_path, on_step=killer(7))


def test_a_signal_while_waiting_leaves_the_write_to_finish(tmp_path):
    """A handler raises in the main thread as it waits; the thread ends its work before the context is left."""

    class Stopped(BaseException): ...

    def stop(number, frame):
        raise Stopped

    done, before = [], signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stopped), Background() as background:
            background.begin(lambda: None)  # the thread has started
            background.begin(lambda: (signal.raise_signal(signal.SIGUSR1), done.append(threading.Event().wait(0.1))))
            background.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done == [False]


KILLED_IN_A_WRITE = """
import os, signal, sys
import torch; torch.set_num_threads(1)
import pynas
from pynas import tensor_files
from tests.train.test_fit import Regression, batches
writes = []
def half(tensors, path, metadata):
    writes.append(path)
    if len(writes) == 2:
        path.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path, metadata)
save, tensor_files.save_file = tensor_files.save_file, half
pynas.fit(Regression(), batches(), 3, sys.argv[1], seed=5)
"""


def test_a_kill_during_a_write_leaves_the_last_whole_checkpoint(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_WRITE, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_tensors(tmp_path / LAST, CHECKPOINT).metadata["step"] == 5
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 11))  # written before the checkpoint
    steps, method, whole = [], Regression(), Regression()
    pynas.fit(method, batches(), 3, tmp_path, seed=5, on_step=lambda step: steps.append(step.step))
    pynas.fit(whole, batches(), 3, seed=5)
    assert steps == list(range(6, 16))
    assert all(torch.equal(value, weights(method)[name]) for name, value in weights(whole).items())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 16))


def kept(folder):
    return sorted(int(path.stem.removeprefix("epoch_")) for path in (folder / "checkpoints").glob("epoch_*"))


@pytest.mark.parametrize(
    ("policy", "epochs"),
    [
        (Keep(), [5]),
        (Keep(every=3), [3, 5, 6, 9]),
        (Keep(last=2), [5, 9, 10]),
        (Keep(every=2, last=2), [5, 8, 10]),
        (Keep(every=5, last=1), [5, 10]),  # the fifth is named by keep_epochs
    ],
)
def test_kept_epochs(tmp_path, policy, epochs):
    pynas.fit(Regression(), batches(2), 10, tmp_path, keep_epochs=[5], keep=policy)
    assert kept(tmp_path) == epochs


def test_a_resumed_training_may_have_another_policy(tmp_path):
    with pytest.raises(Killed):
        pynas.fit(Regression(), batches(2), 10, tmp_path, keep=Keep(every=3), on_step=killer(14))
    pynas.fit(Regression(), batches(2), 10, tmp_path, keep=Keep(every=4, last=1))
    assert kept(tmp_path) == [3, 6, 8]
    whole = Regression()
    pynas.fit(whole, batches(2), 10, tmp_path / "whole", keep_epochs=[6])
    files = [
        read_tensors(folder / "checkpoints/epoch_6.safetensors", CHECKPOINT)
        for folder in (tmp_path, tmp_path / "whole")
    ]
    assert files[0].digest == files[1].digest and files[0].metadata == files[1].metadata


@pytest.mark.parametrize("texts, policy", [
    ([], Keep()), (["every=10"], Keep(10)), (["last=3"], Keep(None, 3)), (["every=10", "last=3"], Keep(10, 3)),
    (["last=3, every=10"], Keep(10, 3)),
])  # fmt: skip
def test_a_policy_is_read(texts, policy):
    assert Keep.of(texts) == policy


@pytest.mark.parametrize(
    "text", ["10", "each=10", "every=", "every=-1", "every=0", "last=0", "every=1,every=2", "every=1.5", ""]
)
def test_other_policies_are_refused(text):
    with pytest.raises(InputError, match=r"\[keep\] expected"):
        Keep.of([text])
