"""What goes wrong from outside, one test each: nothing that was whole is lost, and one line says what to do."""

import contextlib
import errno
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pynas as package
from pynas.cli import main
from pynas.errors import InputError
from pynas.files import TEMPORARY, read_arrays
from pynas.runs.lock import hold
from pynas.tensor_files import read_tensors

pytestmark = pytest.mark.integration
COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'pynas'; from pynas.cli import main; main()"]
RESULTS = ("search.json", "metrics.jsonl", "subnet.safetensors", "checkpoints/last.safetensors", "teacher.safetensors",
           *(f"scores/block_{b}.npz" for b in range(1, 5)))  # fmt: skip


def contents(folder):
    """Bytes of all files but status.json, which says how a command ended."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "status.json")
    return {path: path.read_bytes() for path in files}


def end(monkeypatch, capsys, *words):
    """Exit code and the one line that a command which fails ends with."""
    monkeypatch.setattr(sys, "argv", ["pynas", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("pynas: ")]
    assert "Traceback" not in error and len(lines) == 1, error
    return stop.value.code, lines[0]


def begun(half_images, folder):
    """The words of a run of the same settings as `finished`, in a new folder."""
    return ["run", "--data", half_images, "--epochs", 2, "--batch-size", 16, "--run", folder]


def same_results(one, other):
    for name in RESULTS:
        if name.endswith(".npz"):
            (ours, said), (theirs, wanted) = (read_arrays(f / name, "pynas.block_scores") for f in (one, other))
            assert said == wanted and all(np.array_equal(ours[key], theirs[key]) for key in theirs | ours), name
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_disk_full_on_tables(run_copy, monkeypatch, capsys):
    """A write that fails half-way: the old file stays, the new one is gone."""
    before = contents(run_copy)

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    shutil.rmtree(run_copy / "scores")
    code, line = end(monkeypatch, capsys, "rate", "--run", run_copy)
    assert code == 2 and "No space left on device" in line
    assert contents(run_copy) == {path: data for path, data in before.items() if path.parent.name != "scores"}


def test_disk_full_on_tensors(run_copy, monkeypatch, capsys):
    """The kernel itself refuses more than 100 kB a file, as the library that writes tensors sees it."""
    before = contents(run_copy)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, line = end(monkeypatch, capsys, "export", "--run", run_copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2 and "subnet.safetensors cannot be written" in line
    assert contents(run_copy) == before


def test_a_folder_that_cannot_be_written(run_copy, monkeypatch, capsys):
    before = contents(run_copy)

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(run_copy))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    for words in (("search", run_copy), ("export", "--run", run_copy), ("report", run_copy)):
        code, line = end(monkeypatch, capsys, *words)
        assert code == 2 and "Read-only file system" in line
    assert contents(run_copy) == before


@pytest.mark.parametrize(
    "name", ["checkpoints/last.safetensors", "teacher.safetensors", "scores/block_2.npz", "costs.npz"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damage_is_found_wherever_it_is(whole_run, tmp_path, name, damage):
    """Either the file is refused by its name, or what is read is what was written (bytes that nothing depends on)."""
    kinds = {
        "last": "pynas.checkpoint",
        "teacher": "pynas.teacher",
        "block_2": "pynas.block_scores",
        "costs": "pynas.costs",
    }
    content, path = (whole_run / name).read_bytes(), tmp_path / Path(name).name

    def read(file):
        kind = kinds[file.stem]
        if file.suffix == ".npz":
            return read_arrays(file, kind)
        got = read_tensors(file, kind)
        return {key: value.numpy() for key, value in got.tensors.items()}, got.metadata

    wanted, said = read(whole_run / name)
    rng, refused = random.Random(0), 0
    # Half of the places in the last and first kilobyte, where the tables of contents are.
    for number in range(24):
        place = (
            rng.randrange(len(content)) if number % 2 else rng.choice([rng.randrange(1000), -1 - rng.randrange(1000)])
        )
        damaged = bytearray(content)
        if damage == "flip":
            damaged[place] ^= 1 << rng.randrange(8)
        else:
            damaged = damaged[: place % len(content)]
        path.write_bytes(damaged)
        try:
            got, metadata = read(path)
        except InputError as error:
            assert path.name in str(error)
            refused += 1
        else:
            assert damage == "flip" and metadata == said and got.keys() == wanted.keys()
            assert all(np.array_equal(got[key], wanted[key]) for key in wanted)
    assert refused >= 16


def test_damaged_files_are_not_overwritten(run_copy, monkeypatch, capsys):
    for name, words in (("scores/block_1.npz", ("rate", "--run")), ("checkpoints/last.safetensors", ("train", "--run")),
                        ("checkpoints/last.safetensors", ("run", "--run"))):  # fmt: skip
        path = run_copy / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        before = contents(run_copy)
        code, line = end(monkeypatch, capsys, *words, run_copy)
        assert code == 2 and path.name in line and contents(run_copy) == before
        path.write_bytes(whole)


class Diverges:
    """Lets a method's loss become infinite in one step."""

    def __init__(self, monkeypatch, at):
        from pynas.methods import DNA

        step, self.count = DNA.training_step, 0

        def training_step(method, images, labels, rng):
            self.count += 1
            losses = step(method, images, labels, rng)
            return {**losses, "block_2": losses["block_2"] * float("inf")} if self.count == at else losses

        monkeypatch.setattr(DNA, "training_step", training_step)


def test_a_loss_that_is_not_finite(half_images, finished, tmp_path, monkeypatch, capsys, pynas):
    """In the second epoch of three steps: the first one's checkpoint is kept, and goes on once the cause is gone."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        Diverges(patch, at=5)
        code, line = end(patch, capsys, *begun(half_images, folder))
    assert (
        code == 1
        and "inf for block_2 in step 5 (epoch 2)" in line
        and str(folder / "checkpoints/last.safetensors") in line
    )
    assert read_tensors(folder / "checkpoints/last.safetensors", "pynas.checkpoint").metadata["step"] == 3
    pynas("run", "--run", folder)
    same_results(folder, finished[0])


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path):
    import torch
    from torch import nn

    from pynas.train import Method, fit

    class Overflows(nn.Module, Method):
        def __init__(self):
            super().__init__()
            self.weight, self.steps = nn.Parameter(torch.zeros(())), 0

        def prepare(self, batches): ...

        def optimizer(self):
            return torch.optim.SGD(self.parameters(), 1.0)

        def rate_factor(self, progress, epochs):
            return 1.0

        def training_step(self, images, labels, rng):
            self.steps += 1
            self.weight.grad = torch.tensor(float("inf") if self.steps == 4 else 1.0)
            return {"loss": torch.tensor(1.0)}

    batches = [(torch.zeros(1), torch.zeros(1))] * 2
    with pytest.raises(
        FloatingPointError, match=r"weight after step 4; the checkpoint before it is kept: .*last\.safe"
    ):
        fit(Overflows(), batches, 3, tmp_path)
    kept = read_tensors(tmp_path / "checkpoints/last.safetensors", "pynas.checkpoint")
    assert kept.metadata["step"] == 2 and kept.tensors["model.weight"] == -2


def test_an_image_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in "ab":
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for number in range(12):
                image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / part / label / f"{number}.png")
    broken = tmp_path / "images" / "train" / "b"
    for path in broken.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    words = ["train", "--data", tmp_path / "images", "--epochs", 1, "--batch-size", 4, "--image-size", 32]
    code, line = end(monkeypatch, capsys, *words, "--run", tmp_path / "run")
    assert code == 2 and re.search(rf"expected an image, got {broken}/\d+\.png", line)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_that_dies(half_images, finished, tmp_path, monkeypatch, capsys, pynas):
    """One line; the run goes on, and ends like one that had no workers."""
    from pynas.runs.progress import Progress

    folder = tmp_path / "run"

    def kill(step):
        if step.step == 4:
            for worker in multiprocessing.active_children():
                worker.kill()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "steps", lambda progress, name="": kill)
        code, line = end(patch, capsys, *begun(half_images, folder), "--workers", 2)
    assert code == 2 and re.search(
        r"^pynas: \[data\] expected processes that read .*DataLoader worker.*fewer --workers", line
    )
    assert (folder / "checkpoints/last.safetensors").exists()
    pynas("run", "--run", folder, "--workers", 1)
    same_results(folder, finished[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(half_images, finished, tmp_path, monkeypatch, capsys, pynas, number):
    from pynas.runs.progress import Progress

    folder = tmp_path / "run"

    def steps(progress, name=""):
        return lambda step: signal.raise_signal(number) if step.step == 4 else None

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "steps", steps)
        code, line = end(patch, capsys, *begun(half_images, folder))
    assert code == 128 + number and f"--run {folder} goes on" in line
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3
    if number == signal.SIGINT:
        pynas("run", "--run", folder)
        same_results(folder, finished[0])


def test_two_processes_in_one_folder(run_copy, monkeypatch, capsys):
    """Another process holds the folder until it is killed."""
    code = f"import time, pathlib, pynas.runs.lock as lock; lock.hold(pathlib.Path({str(run_copy)!r})); print('held', flush=True)"
    other = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(300)"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        before = contents(run_copy)
        for words in (("run", "--run", run_copy), ("search", run_copy), ("export", "--run", run_copy)):
            code, line = end(monkeypatch, capsys, *words)
            assert code == 2 and "another process" in line
        assert contents(run_copy) == before
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    (run_copy / "scores" / f"{TEMPORARY}block_1.npz-abc.npz").write_bytes(b"half")
    hold(run_copy)
    hold(run_copy)
    assert not list(run_copy.rglob(f"{TEMPORARY}*"))


def test_nothing_that_a_run_leaves_is_a_pickle(whole_run):
    for path in whole_run.rglob("*"):
        if path.is_file():
            assert path.suffix in (".yaml", ".safetensors", ".npz", ".json", ".jsonl", ".png", ".svg"), path
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                assert all(file[name].dtype != object for name in file.files)


def test_the_code_reads_no_pickle():
    allowed = {Path("runtimes/formats.py"): "torch.export.load(temporary)"}
    for path in Path(package.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(Path(package.__file__).parent)
        text = text.replace(allowed.get(name, "\0"), "")
        for bad in (r"\bimport pickle", r"\bpickle\.", r"torch\.load\((?![^)]*weights_only=True)", r"torch\.export\.load\(",
                    r"joblib", r"yaml\.load\(",
                    r"allow_pickle=True", r"weights_only=False", r"np\.load\((?![^)]*allow_pickle=False)"):  # fmt: skip
            found = re.search(bad, text)
            assert not found or name.parts[0] == "tabular", f"{name}: {found and found[0]}"


def _run_in_child(words, log):
    """A whole command in a process of its own that has imported everything already."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["pynas", *map(str, words)]
    main()


@pytest.mark.slow
def test_killed_at_twenty_random_moments(half_images, finished, tmp_path):
    """Each time it goes on, and every run that gets through ends like one that was left alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pynas.runs", "timm", "sklearn.model_selection", "matplotlib.figure"])
    log, rng, kills, runs = tmp_path / "log", random.Random(0), 0, 0

    def attempt(folder, seconds):
        """Whether it was killed after so many seconds, rather than done."""
        words = begun(half_images, folder) if not (folder / "config.yaml").exists() else ["run", "--run", folder]
        child = context.Process(target=_run_in_child, args=(words, log))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), log.read_text()
        return child.exitcode != 0

    # The first child waits for the imports.
    warm = context.Process(target=time.sleep, args=(0,))
    warm.start()
    warm.join()
    began = time.monotonic()
    attempt(tmp_path / "whole", None)
    whole = time.monotonic() - began
    same_results(tmp_path / "whole", finished[0])
    while kills < 20:
        folder = tmp_path / f"run-{runs}"
        if attempt(folder, rng.uniform(0, 0.5 * whole)):
            kills += 1
        else:
            runs += 1
            same_results(folder, finished[0])
    folder = tmp_path / f"run-{runs}"
    assert not attempt(folder, None)
    same_results(folder, finished[0])
    for kept in range(runs + 1):
        assert not list((tmp_path / f"run-{kept}").rglob(f"{TEMPORARY}*"))
    with contextlib.suppress(OSError):
        log.unlink()
