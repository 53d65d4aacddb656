"""Peak memory does not grow with the number of images on disk: in training, rating, errors of networks and a retraining."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FEW, MANY, SIDE = 300, 4_500, 96
# What the further images of one part would take if they stayed in memory as float32; as bytes a fourth of it.
HELD = (MANY - FEW) // 2 * 3 * SIDE * SIDE * 4

SCRIPT = """
import sys
import torch
from torch import nn
import pynas
from pynas import data, export, methods, rating
from pynas.evaluation import ErrorRate
from pynas.export import recipes

stage, folder = sys.argv[1:]
images = data.load(folder, {side}, val_fraction=0.5)
torch.manual_seed(0)

def layer(inputs, stride):
    convs = [nn.Conv2d(inputs, 4, size, stride, size // 2, bias=False) for size in (1, 3)]
    return [nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU()) for conv in convs]

layers = [layer(3, 8), layer(4, 2)]
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(4, 2)
    def features(self, x):
        return x.mean((2, 3))
    def forward(self, x):
        return self.classifier(self.features(x))

head = Head()
if stage == "fit":
    net = pynas.Supernet([[[*layers]]], head=head)
    pynas.fit(methods.OneShot(net), images.loader("train", 50, "standard"), 1, seed=0)
elif stage == "rate":
    rating.rate(layers, images.loader("val", 50), "cross_entropy", tail=head)
elif stage == "errors":
    net = pynas.Supernet([[[*layers]]], head=head)
    ErrorRate(net, images.loader("val", 50), norm="batch").many(list(net.space.architectures()))
else:
    net = nn.Sequential(layers[0][1], layers[1][0], head)
    export.retrain(net, images, recipes.recipe_of("small"), epochs=1, batch_size=50)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of links to a few images: so many to train and rate on, and half as many to test on."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = []
    for number in range(16):
        pixels = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        files.append(root / f"{number}.jpg")
        Image.fromarray(pixels + 100 * (number % 2)).save(files[-1])
    for count in (FEW, MANY):
        for part, images in (("train", count), ("val", count // 2)):
            for label in range(2):
                folder = root / str(count) / part / str(label)
                folder.mkdir(parents=True)
                for number in range(images // 2):
                    os.link(files[2 * (number % 8) + label], folder / f"{number}.jpg")
    return {count: root / str(count) for count in (FEW, MANY)}


def peak(stage: str, folder: Path) -> int:
    """Bytes that a process needed at most for a stage."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", SCRIPT.replace("{side}", str(SIDE)), stage, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures what Linux says of a process")
@pytest.mark.parametrize("stage", ["fit", "rate", "errors", "retrain"])
def test_peak_memory_does_not_grow_with_the_images(folders: dict[int, Path], stage: str) -> None:
    growth = peak(stage, folders[MANY]) - peak(stage, folders[FEW])
    assert growth < HELD / 8, f"{growth / 1e6:.1f} MB for {MANY - FEW} images, held they would be {HELD / 1e6:.0f}"
