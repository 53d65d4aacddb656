"""Peak memory of whole runs does not grow with the number of images on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'pynas'; from pynas.cli import main; main()"]
FEW, MANY = 600, 9_600
# What the further images of one part would take if they stayed in memory: float32, 32x32 pixels.
HELD = (MANY - FEW) // 2 * 3 * 32 * 32 * 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of links to a few images: so many to train and rate on, and a quarter of them to test on."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = []
    for number in range(16):
        pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
        pixels[: 16 if number % 2 else 32, 16 * (number % 2) :] += 100
        files.append(root / f"{number}.jpg")
        Image.fromarray(pixels).save(files[-1])
    for count in (FEW, MANY):
        for part, images in (("train", count), ("val", count // 4)):
            for label in range(2):
                folder = root / str(count) / part / str(label)
                folder.mkdir(parents=True)
                for number in range(images // 2):
                    os.link(files[2 * (number % 8) + label], folder / f"{number}.jpg")
    return {count: root / str(count) for count in (FEW, MANY)}


def peak(*words: object) -> int:
    """Bytes that a command line needed at most."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen([*COMMAND, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures what Linux says of a process")
@pytest.mark.parametrize("method", ["dna", "spos", "prenas"])
def test_peak_memory_does_not_grow_with_the_images(folders: dict[int, Path], tmp_path: Path, method: str) -> None:
    """Training, rating, search and export; then a retraining."""
    space = {"dna": "mbconv-mini", "spos": "nasbench201-mini", "prenas": "autoformer-mini"}[method]
    options = {"dna": [], "spos": ["--option", "budget=4"], "prenas": ["--option", "images=16"]}[method]
    peaks = {}
    for count, images in folders.items():
        run = tmp_path / f"{method}-{count}"
        settings = ["--data", images, "--image-size", 32, "--val-fraction", 0.5, "--epochs", 1, "--batch-size", 50]
        peaks["run", count] = peak("run", "--method", method, "--space", space, *settings, *options, "--run", run)
        peaks["retrain", count] = peak("retrain", "--run", run, "--recipe", "small", "--epochs", 1, "--batch-size", 50)
    for command in ("run", "retrain"):
        growth = peaks[command, MANY] - peaks[command, FEW]
        assert growth < HELD / 3, f"{command}: {growth / 1e6:.1f} MB for {MANY - FEW} images"
