"""`pynas submit`: what Slurm gets, a job of two processes on this machine, and one that is preempted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pynas.cli import main
from tests.processes import TRAIN, torchrun

pytest.importorskip("submitit")
pytestmark = pytest.mark.integration
# Slurm's programs, as a script may call them: those that a test watches write what they got.
PROGRAMS = {
    "sbatch": 'cp "$1" "$(dirname "$0")/script.sh"; echo "Submitted batch job 42"',
    "scontrol": 'echo "$@" > "$(dirname "$0")/scontrol.txt"',
    "srun": """shift 5
for task in 0 1; do
    SLURM_JOB_ID=42 SLURM_NTASKS=2 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=127.0.0.[1-2] SLURM_NODEID=$task \\
    SLURM_PROCID=$task SLURM_LOCALID=0 "$@" &
    tasks="$tasks $!"
done
code=0
for task in $tasks; do wait $task || code=$?; done
exit $code""",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of programs in the place of Slurm's, in which sbatch leaves script.sh."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def end(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Run the command line and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["pynas", "submit", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_what_slurm_gets(slurm, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "dna"
    options = ["--nodes", 2, "--gpus", 8, "--cpus", 12, "--hours", 48, "--partition", "long", "--name", "dna"]
    options += ["--slurm", "account=vision", "--slurm", "exclusive="]
    assert end(monkeypatch, *options, "--", *TRAIN, 20, "--run", run) == 0
    folder = tmp_path / "runs" / "dna-submitit"
    said = capsys.readouterr().out
    assert said == f"Submitted as job 42; logs: {folder}/42_0_log.out and .err; watch: pynas status {run} --watch\n"
    asked = set(re.findall(r"#SBATCH --(\S+)", (slurm / "script.sh").read_text()))
    assert asked >= {"nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "time=2880", "partition=long",
                     "job-name=dna", "account=vision", "exclusive", "requeue", "signal=USR2@90",
                     f"output={folder}/%j_0_log.out"}  # fmt: skip
    assert (folder / "42_submitted.pkl").exists() and not run.exists()


def test_defaults_and_json(slurm, tmp_path, monkeypatch, capsys):
    words = [
        "--gpus",
        0,
        "--processes",
        3,
        "--logs",
        tmp_path / "logs",
        "--json",
        "--",
        "rate",
        "--run",
        tmp_path / "run",
    ]
    assert end(monkeypatch, *words) == 0
    wanted = {"job": "42", "logs": str(tmp_path / "logs"), "run": str(tmp_path / "run")}
    assert json.loads(capsys.readouterr().out) == wanted
    script = (slurm / "script.sh").read_text()
    assert "--ntasks-per-node=3" in script and "gpus" not in script and "--time=1440" in script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "train", "--data", "digits"], r"\[submit\] expected --run FOLDER after --, got 'train --data digits'"),
        (["--", "trian", "--run", "x"], "No such command 'trian'"),
        (["--", "train", "--run", "x", "--epoch", "3"], "No such option: --epoch"),
        (["--", "train", "--run", "x", "--epochs", "few"], "Invalid value for '--epochs'"),
        (
            ["--cluster", "local", "--nodes", "2", "--", "train", "--run", "x"],
            "local with one machine, got local with 2",
        ),
        (
            ["--cluster", "cloud", "--", "train", "--run", "x"],
            "expected --cluster slurm, or local .*, got cloud with 1",
        ),
        (["--slurm", "exclusive", "--", "train", "--run", "x"], "expected NAME=VALUE, got 'exclusive'"),
    ],
)
def test_refused_before_anything_is_submitted(words, said, slurm, monkeypatch, capsys):
    assert end(monkeypatch, *words) == 2
    assert re.search(said, " ".join(capsys.readouterr().err.split())) and not (slurm / "script.sh").exists()


def test_without_slurm_and_without_submitit(tmp_path, monkeypatch, capsys):
    words = ["--logs", tmp_path / "logs", "--", "train", "--run", "x"]
    monkeypatch.setenv("PATH", "")
    assert end(monkeypatch, *words) == 2
    assert re.match(r'pynas: \[submit\] expected slurm .*got: Could not detect "srun"', capsys.readouterr().err)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert end(monkeypatch, *words) == 2
    assert capsys.readouterr().err.endswith('got no such package; pip install ".[submit]"\n')


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed run of two processes of torchrun."""
    folder = tmp_path_factory.mktemp("submit") / "whole"
    launch = torchrun("--standalone", "--nproc-per-node", 2)
    subprocess.run([*launch, *TRAIN, "4", "--run", folder], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return folder


def same(one: Path, other: Path) -> None:
    for name in ("checkpoints/last.safetensors", "metrics.jsonl", "teacher.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_local_processes_that_are_preempted(whole, tmp_path):
    """The job is submitted again by itself, and ends like an undisturbed run of torchrun."""
    run = tmp_path / "run"
    words = ["submit", "--cluster", "local", "--gpus", "0", "--processes", "2", "--hours", "1", "--json", "--"]
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-m", "pynas", *words, *TRAIN, "4", "--run", run], stdout=out, check=True,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    said = json.loads((tmp_path / "out").read_text())
    launcher, logs = psutil.Process(int(said["job"])), Path(said["logs"])
    until((run / "checkpoints" / "last.safetensors").exists)
    (first,) = (task for task in launcher.children() if task.environ()["SUBMITIT_LOCAL_GLOBALID"] == "0")
    log = logs / f"{said['job']}_0_log.out"
    first.terminate()  # what a cluster sends before it; alone it stops nothing
    until(lambda: "Bypassing signal SIGTERM" in log.read_text() + log.with_suffix(".err").read_text())
    first.send_signal(signal.SIGUSR2)
    until(lambda: gone(launcher))
    out, error = log.read_text(), (logs / f"{said['job']}_1_log.err").read_text()
    assert out.count("Starting with") == 2 and "Requeued job" in out and out.count("Trained; next") == 1
    assert len(re.findall(r"^pynas: \[processes\] .* got process 1 that lost another one: ", error, re.M)) == 1
    same(run, whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_of_slurm_that_are_preempted(whole, slurm, tmp_path, monkeypatch):
    """The script that sbatch got, run as Slurm does with a task on each of two machines, which are this one, and once more."""
    run = tmp_path / "run"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert end(monkeypatch, "--nodes", 2, "--gpus", 0, "--cpus", 64, "--", *TRAIN, 4, "--run", run) == 0
    with (tmp_path / "log").open("w") as log:
        script = subprocess.Popen(["bash", slurm / "script.sh"], stdout=log, stderr=log)
        until((run / "checkpoints" / "last.safetensors").exists)
        tasks = psutil.Process(script.pid).children(recursive=True)
        (first,) = (task for task in tasks if task.environ().get("SLURM_PROCID") == "0")
        assert first.environ()["SLURM_NODEID"] == "0"
        first.send_signal(signal.SIGUSR2)
        assert script.wait(timeout=100) != 0
        assert (slurm / "scontrol.txt").read_text() == "requeue 42\n"
        subprocess.run(["bash", slurm / "script.sh"], stdout=log, stderr=log, check=True, timeout=200)
    same(run, whole)
