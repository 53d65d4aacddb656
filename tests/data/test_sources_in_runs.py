"""Runs on every source: the folder's record tells another data set, a stopped training goes on, bad input is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_images import encoded, write_shards

from pynas import runs
from pynas.cli import main
from pynas.data import load
from pynas.errors import InputError

SOURCES = ["shards", "hf"]


def write(source: str, root: Path, seed: int = 0) -> str:
    """Write a data set of 24 training images, and return its name."""
    if source == "shards":
        return write_shards(root, train=24 + seed)
    for part, count in (("train", 24), ("val", 8)):
        for n, content in enumerate(encoded(count, seed=seed)):
            path = root / part / "ab"[n % 2] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return f"hf:{root}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def started(folder: Path, name: str, **settings: Any) -> runs.Run:
    few = {"image_size": 32, "batch_size": 8, "epochs": 2, "val_images": 8, **settings}
    run = runs.create(folder, space="mbconv-mini", data=name, device="cpu", **few)
    run.rehearsal = True
    return run


@pytest.mark.parametrize("source", SOURCES)
def test_the_record_of_a_run_tells_other_images(tmp_path: Path, source: str) -> None:
    name = write(source, tmp_path / "images")
    assert started(tmp_path / "run", name).data.fingerprint == load(name, 32, val_images=8).fingerprint
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["images"] == {"train": 16, "val": 8, "test": 8}
    (tmp_path / "run" / "costs.npz").touch()
    assert len(started(tmp_path / "run", name).data.val) == 8
    shutil.rmtree(tmp_path / "images")
    write(source, tmp_path / "images", seed=1)
    with pytest.raises(InputError, match="the images that .*run was made from, with the fingerprint"):
        started(tmp_path / "run", name).data  # noqa: B018


class Stopped(Exception):
    """Ends a training as a kill would."""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.integration
def test_a_stopped_training_ends_alike(tmp_path: Path, source: str) -> None:
    name = write(source, tmp_path / "images")
    whole, parted = started(tmp_path / "whole", name), started(tmp_path / "parted", name)
    whole.train()

    def stop(step: Any) -> None:
        if step.step == 3:
            raise Stopped

    parted.progress = runs.Progress(log=lambda training: stop)
    with pytest.raises(Stopped):
        parted.train()
    again = started(tmp_path / "parted", name)
    again.train()
    states = [run.trained_method()[0].trained_state() for run in (whole, again)]
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "shards/train-{000..001}.tar"], "test shards beside shards/train"),
        (["--data", "hf:./none"], "a data set at './none'"),
        (["--data", "torchvision:Nothing"], "a class of torchvision.datasets"),
        (
            ["--val-fraction", "0.2", "--val-images", "9"],
            "val_fraction or val_images, got both, 0.2 and 9; leave one out",
        ),
        (["--val-images", "2000"], "val_images below the 1437 training images, got 2000"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pynas", "run", "--run", "r", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_the_printed_recipe_says_how_many_images_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.Run, "train", lambda run: None)
    monkeypatch.setattr("sys.argv", ["pynas", "train", "--recipe", "paper", "--limit-images", "200", "--run", "r"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "in brackets the values of paper: val_images 40 (50000)" in capsys.readouterr().out
