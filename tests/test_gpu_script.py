"""bench/gpu.sh on a machine without a GPU: its steps, with stubs for what they run; run folders and images that travel."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from bench import _run_folders, _steps, gpu, pack_images
from bench._steps import Session, Step, chosen

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "gpu.sh"


def shell(name: str, text: str, seconds: float = 20.0, **options) -> Step:
    """A step that runs a line of shell."""
    return Step(name, ["bash", "-c", text], seconds, **options)


def outcomes(folder: Path) -> dict[str, str]:
    """Each step's outcome in the record."""
    return {entry["step"]: entry["outcome"] for entry in json.loads((folder / "steps.json").read_text())["steps"]}


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_the_shell_script_parses():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize("rehearse", ["0", "1"])
def test_the_list_names_only_what_is_there(rehearse):
    environment = {**os.environ, "PYTHON": sys.executable, "REHEARSE": rehearse}
    environment.pop("WHEELS", None)
    done = subprocess.run([SCRIPT, "--list"], env=environment, capture_output=True, text=True, check=True, cwd="/")
    lines = {line.split()[0]: shlex.split(line)[3:] for line in done.stdout.splitlines()}
    order = ["build", "check-tests", "check-memcheck", "check-racecheck", "check-synccheck", "check-processes", "images",
             "train-dna", "train-bossnas", "train-pinas", "train-prenas"]  # fmt: skip
    assert [name for name in lines if name in order] == order
    modules = [after for words in lines.values() for word, after in itertools.pairwise(words) if word == "-m"]
    for module in modules:
        if module.startswith("bench."):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    assert ("cuda" in " ".join(lines["bench-scale"])) == (rehearse == "0")
    assert ("compute-sanitizer" in " ".join(lines["check-memcheck"])) == (rehearse == "0")


def test_an_unknown_step_is_refused(tmp_path):
    done = subprocess.run([SCRIPT, tmp_path, "train-dnaa"], env={**os.environ, "PYTHON": sys.executable},
                          capture_output=True, text=True)  # fmt: skip
    assert (
        done.returncode != 0 and "[gpu] expected steps of facts, build" in done.stderr and "'train-dnaa'" in done.stderr
    )


def test_groups_and_what_comes_before():
    steps = [
        shell("a", ""),
        shell("b", "", after=("a",)),
        shell("t-1", "", after=("b",)),
        shell("t-2", "", after=("a",)),
    ]
    assert [step.name for step in chosen(steps, ["t-2", "t-"])] == ["a", "t-2", "b", "t-1"]
    assert [step.name for step in chosen(gpu.steps(Path("/tmp"), True), ["images"])] == ["images"]


def test_a_failure_hides_nothing_and_the_record_is_whole_after_each_step(tmp_path):
    reads = f"import json; print([e['outcome'] for e in json.load(open({str(tmp_path / 'steps.json')!r}))['steps']])"
    steps = [
        shell("fails", "echo said before; exit 3"),
        Step("is-missing", ["/no/such/program"], 5),
        Step("reads", [sys.executable, "-c", reads], 20),
        shell("passes", "echo $COLOUR", environment={"COLOUR": "green"}),
    ]
    assert not Session(tmp_path, 60, {"rehearsal": True}).run(steps)
    record = json.loads((tmp_path / "steps.json").read_text())
    assert outcomes(tmp_path) == {"fails": "failed", "is-missing": "failed", "reads": "passed", "passes": "passed"}
    fails, _, reads_step, passes = record["steps"]
    assert (
        fails["exit"] == 3 and fails["said"] == ["said before"] and passes["said"] == ["green"] and record["rehearsal"]
    )
    assert reads_step["said"] == ["['failed', 'failed', 'running']"]
    assert "said before" in (tmp_path / "gpu.log").read_text()


def test_a_step_that_hangs_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(_steps, "GRACE", 0.3)
    # Neither the step nor its child listens to SIGTERM.
    stubborn = (
        f"trap '' TERM; (trap '' TERM; echo $BASHPID > {tmp_path}/child; while :; do sleep 0.2; done) & wait; sleep 60"
    )
    start = time.monotonic()
    assert not Session(tmp_path, 60, {}).run([shell("hangs", stubborn, seconds=1.5), shell("next", "true")])
    assert time.monotonic() - start < 20
    assert outcomes(tmp_path) == {"hangs": "stopped", "next": "passed"}
    assert not alive(int((tmp_path / "child").read_text()))


def test_what_a_finished_step_leaves_running_is_ended(tmp_path):
    assert Session(tmp_path, 60, {}).run([shell("leaves", f"sleep 600 & echo $! > {tmp_path}/child")])
    assert not alive(int((tmp_path / "child").read_text()))


def test_time_that_is_spent_stops_one_and_leaves_the_rest_out(tmp_path):
    steps = [shell("long", "sleep 600", seconds=500), shell("later", "true")]
    assert not Session(tmp_path, 1.5, {}).run(steps)
    assert outcomes(tmp_path) == {"long": "stopped", "later": "left out"}


def test_a_run_is_packed_even_where_its_step_was_stopped(tmp_path):
    run, out = tmp_path / "runs" / "dna", tmp_path / "out"
    text = f"mkdir -p {run}/checkpoints; echo weights > {run}/checkpoints/last; sleep 600"
    assert not Session(out, 60, {}, _run_folders.pack).run([shell("train", text, seconds=1.5, keep=run)])
    assert _run_folders.restore(out, tmp_path / "again") == ["dna"]
    assert (tmp_path / "again/dna/checkpoints/last").read_text() == "weights\n"


def test_packing_that_fails_ends_nothing(tmp_path):
    def breaks(run, folder):
        raise OSError("no space")

    assert Session(tmp_path, 60, {}, breaks).run([shell("a", "true", keep=tmp_path), shell("b", "true")])
    assert "no space" in json.loads((tmp_path / "steps.json").read_text())["steps"][0]["packing"]


def test_a_call_that_is_cut_leaves_a_record_and_no_process(tmp_path):
    program = f"""
import signal
from pathlib import Path
from bench.gpu import listen
from bench._steps import Session, Step

session = Session(Path({str(tmp_path)!r}), 60, {{}})
listen(session)
steps = [Step("long", ["bash", "-c", "echo $$ > {tmp_path}/pid; sleep 600"], 50), Step("later", ["true"], 5)]
raise SystemExit(0 if session.run(steps) else 1)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1
    assert outcomes(tmp_path) == {"long": "cut", "later": "left out"}
    assert not alive(int((tmp_path / "pid").read_text()))


def test_run_folders_travel_in_pieces(tmp_path):
    run, packed = tmp_path / "runs" / "bossnas", tmp_path / "packed"
    (run / "scores").mkdir(parents=True)
    weights = np.random.default_rng(0).bytes(10_000)
    (run / "scores" / "weights").write_bytes(weights)
    packed.mkdir()
    assert _run_folders.pack(tmp_path / "runs" / "none", packed) == []
    assert len(_run_folders.pack(run, packed, piece=700)) > 11  # more than 10: 10 comes after 9, not after 1
    assert _run_folders.restore(packed, tmp_path / "there") == ["bossnas"]
    assert (tmp_path / "there/bossnas/scores/weights").read_bytes() == weights
    (run / "scores" / "weights").write_bytes(b"newer")
    assert len(_run_folders.pack(run, packed, piece=700)) == len(list(packed.iterdir())) == 1  # no old piece is left
    assert (
        _run_folders.restore(packed, tmp_path / "there") == []
    )  # a run that is there is newer than any that travelled
    assert (tmp_path / "there/bossnas/scores/weights").read_bytes() == weights


def test_a_finished_run_travels_without_checkpoints_and_is_not_begun_anew(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "bossnas"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.safetensors").write_bytes(b"large")
    _run_folders.pack(run, tmp_path)
    assert _run_folders.restore(tmp_path, tmp_path / "unfinished") == ["bossnas"]
    assert (tmp_path / "unfinished/bossnas/checkpoints/last.safetensors").exists()
    (run / "subnet.safetensors").write_bytes(b"small")
    _run_folders.pack(run, tmp_path)
    assert _run_folders.restore(tmp_path, tmp_path / "finished") == ["bossnas"]
    assert [path.name for path in (tmp_path / "finished/bossnas").iterdir()] == ["subnet.safetensors"]
    monkeypatch.setattr(gpu, "WORK", tmp_path)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "DATA", tmp_path / "images.npz")
    commands = {step.name: step.command[0] for step in gpu.steps(tmp_path, False)}
    assert commands["train-bossnas"] == "echo" and commands["train-pinas"] == sys.executable


@pytest.fixture
def images(tmp_path):
    """Pictures smooth enough for JPEG, of a number that fills no sheet."""
    rng = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 700), ("test", 31)):
        slopes = rng.random((count, 1, 1, 3)) * np.arange(32)[:, None, None] * 4 + np.arange(32)[:, None] * 3
        parts[f"x_{part}"] = slopes.astype(np.uint8)
        parts[f"y_{part}"] = rng.integers(0, 10, count)
    np.savez(tmp_path / "images.npz", **parts)
    return parts


@pytest.mark.parametrize(("form", "shards"), [("exact", 3), ("jpeg", 1), ("avif", 2)])
def test_images_come_back(images, tmp_path, form, shards):
    if form == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    assert len(pack_images.pack(tmp_path / "images.npz", tmp_path / "packed", form, 93, shards)) == shards
    assert json.loads(pack_images.unpack(tmp_path / "packed", tmp_path / "out.npz"))["form"].startswith(form)
    with np.load(tmp_path / "out.npz") as found:
        for name, wanted in images.items():
            assert found[name].shape == wanted.shape and found[name].dtype == np.uint8
            difference = np.abs(found[name].astype(int) - wanted)
            assert difference.max() == 0 if form == "exact" or name[0] == "y" else difference.mean() < 3


def test_a_missing_shard_is_named(images, tmp_path):
    pack_images.pack(tmp_path / "images.npz", tmp_path / "packed", "jpeg", 93, 3)[1].unlink()
    with pytest.raises(SystemExit, match=r"expected 3 shards in .*, got none of \[1\]"):
        pack_images.unpack(tmp_path / "packed", tmp_path / "out.npz")
    with pytest.raises(SystemExit, match="expected 1 shards"):
        pack_images.unpack(tmp_path / "nothing", tmp_path / "out.npz")
