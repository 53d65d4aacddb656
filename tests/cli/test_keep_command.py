"""`--keep`: weights that stay beside the last checkpoint."""

import pytest

from pynas import runs
from pynas.errors import InputError
from pynas.train import Keep

pytestmark = pytest.mark.integration


def kept(folder):
    return sorted(int(path.stem.removeprefix("epoch_")) for path in (folder / "checkpoints").glob("epoch_*"))


def test_a_run_keeps_what_it_is_told_and_may_be_told_otherwise_later(half_images, tmp_path, pynas):
    folder = tmp_path / "run"
    words = ["train", "--data", half_images, "--batch-size", 16, "--run", folder, "--seeds", 2]
    pynas(*words, "--epochs", 4, "--keep-epochs", 1, "--keep", "every=1", "--keep", "last=2")
    assert kept(folder) == [1, 3, 4] and kept(folder / "seed_1") == [1, 3, 4]
    before = (folder / "config.yaml").read_bytes()
    pynas("train", "--run", folder, "--keep", "every=3")
    assert (folder / "config.yaml").read_bytes() == before and b"every" not in before
    pynas("train", "--run", folder, "--seeds", 3, "--keep", "every=3,last=1")
    assert kept(folder / "seed_2") == [1, 3]


def test_a_retraining_keeps_weights(run_copy, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "small", "--epochs", 3, "--batch-size", 16]
    pynas(*words, "--keep", "every=1,last=2")
    assert kept(run_copy / "retraining" / "small-scratch") == [2, 3]


def test_other_policies_are_refused_before_a_folder_is_made(half_images, tmp_path):
    from typer.testing import CliRunner

    from pynas.cli import app

    for command in ("train", "run"):
        words = [command, "--data", str(half_images), "--run", str(tmp_path / "run"), "--keep", "often"]
        with pytest.raises(InputError, match=r"\[keep\] expected every=N and last=M, once each, got 'often'"):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_bossnas_keeps_no_weights_on_the_way(half_images, tmp_path):
    run = runs.create(tmp_path / "run", method="bossnas", data=str(half_images), batch_size=16, keep=Keep(every=1))
    with pytest.raises(InputError, match="expected no --keep for bossnas"):
        run.train()
