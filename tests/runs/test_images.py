"""A run's stages see the same images, split in the same way, or stop with one line; so do trainings of Python users."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import pynas
from pynas import data, runs
from pynas.cli import main
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.runs.images import RECORD
from pynas.runs.rate import load_scores, scores_folder
from pynas.runs.retrain import Request, retrain
from pynas.train import Method


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two classes: noise, dark or bright."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 20), ("val", 4)):
        for label, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8) + np.uint8(100 * label)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """The folder of a run that has recorded its images, with scores that no network was rated for."""
    run = runs.create(
        tmp_path_factory.mktemp("runs") / "run", data=str(pictures), image_size=32, batch_size=8, epochs=1
    )
    run.rehearsal = True
    run.train()
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in run.space.blocks]
    Scores(run.space, tables, {"data": run.data.fingerprint}).save(scores_folder(run))
    return run.folder


@pytest.fixture
def copy(pictures, finished, tmp_path):
    """Copies of the run and of its images, at another place."""
    images, folder = shutil.copytree(pictures, tmp_path / "pictures"), shutil.copytree(finished, tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(pictures), str(images)))
    return folder, images


def opened(folder):
    run = runs.load(folder)
    run.rehearsal = True
    return run


CHANGES = {
    "deleted": lambda images: (images / "train" / "a" / "03.png").unlink(),
    "added": lambda images: shutil.copy(images / "train" / "a" / "03.png", images / "train" / "b" / "99.png"),
    "renamed": lambda images: (images / "train" / "a" / "03.png").rename(images / "train" / "a" / "x.png"),
    "replaced": lambda images: shutil.copy(images / "train" / "a" / "03.png", images / "train" / "b" / "03.png"),
    "test image": lambda images: (images / "val" / "a" / "01.png").unlink(),
}
STAGES = {
    "train": lambda run: run.train(),
    "rate": lambda run: run.rate(),
    "search": lambda run: run.search(),
    "export": lambda run: run.export(),
    "retrain": lambda run: retrain(run, Request(epochs=1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_stage_refuses_changed_images(copy, change):
    folder, images = copy
    run = opened(folder)
    assert run.data.fingerprint == load_scores(run).metadata["data"]  # the images were moved, not changed
    CHANGES[change](images)
    before = sorted(folder.rglob("*"))
    for stage in STAGES.values():
        with pytest.raises(
            InputError, match=r"^\[data\] expected the images that .*run was made from, .*another run folder$"
        ):
            stage(opened(folder))
    assert sorted(folder.rglob("*")) == before


def test_the_command_line_says_so_in_one_line(copy, capsys, monkeypatch):
    folder, images = copy
    CHANGES["deleted"](images)
    for words in (
        ["rate", "--run", folder],
        ["search", folder],
        ["export", "--run", folder],
        ["train", "--run", folder],
    ):
        monkeypatch.setattr("sys.argv", ["pynas", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and "expected the images that" in said and "Traceback" not in said


def test_images_may_change_before_anything_is_made_from_them(pictures, tmp_path):
    images = shutil.copytree(pictures, tmp_path / "pictures")
    settings = {"data": str(images), "image_size": 32, "batch_size": 8}
    first = runs.create(tmp_path / "run", **settings).data.fingerprint
    CHANGES["deleted"](images)
    run = runs.create(tmp_path / "run", **settings)
    assert run.data.fingerprint != first and (run.folder / RECORD).exists()
    (run.folder / "checkpoints").mkdir()
    CHANGES["renamed"](shutil.copytree(pictures, images, dirs_exist_ok=True))
    with pytest.raises(InputError, match=run.data.fingerprint):
        _ = opened(run.folder).data


def test_scores_of_other_images_are_not_searched(copy):
    folder, _ = copy
    run = opened(folder)
    scores = load_scores(run)
    Scores(run.space, scores.tables, {**scores.metadata, "data": "0" * 16}).save(scores_folder(run))
    with pytest.raises(
        InputError, match=r"expected scores of the images .*, got scores of 0000000000000000 in .*; rate again"
    ):
        run.search()


class Linear(torch.nn.Module, Method):
    """Two classes from the mean colour: enough of a method for the training loop."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def optimizer(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def rate_factor(self, progress, epochs):
        return 1.0

    def training_step(self, images, labels, rng):
        loss = torch.nn.functional.cross_entropy(self.net(images.mean((2, 3))), labels)
        loss.backward()
        return {"loss": loss.detach()}


def test_a_training_from_python_does_not_resume_on_other_images(pictures, tmp_path):
    images, folder = shutil.copytree(pictures, tmp_path / "pictures"), tmp_path / "run"

    def train(seed=0):
        pynas.fit(Linear(), data.load(images, 16, seed=seed).loader("train", 8), 1, folder)

    train()
    train()
    with pytest.raises(
        InputError, match=r"\[fit\] expected the images that .*last.safetensors was trained on, .* restore"
    ):
        train(seed=1)  # another split
    CHANGES["replaced"](images)
    with pytest.raises(InputError, match=r"\[fit\] expected the images that .* was trained on"):
        train()
    # Loaders of the user's own have no fingerprint, and resume as before.
    pynas.fit(Linear(), list(data.load(images, 16).loader("train", 8)), 1, folder)
