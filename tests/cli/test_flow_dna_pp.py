"""`pynas run` over vision transformers with DNA++ and DNA, end to end on a few small images."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pynas import data, export, teachers
from pynas.cli import app

pytestmark = pytest.mark.integration


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of noise, one of them bright above."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pictures = rng.integers(0, 120, (48, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x_train=pictures[:32], y_train=labels[:32], x_test=pictures[32:], y_test=labels[32:])
    return path


def arguments(images, folder):
    return ["--data", images, "--epochs", "2", "--batch-size", "8", "--run", folder, "--json"]


def test_run_searches_vits_beside_a_convolutional_teacher(images, tmp_path):
    folder = tmp_path / "run"
    words = [*arguments(images, folder), "--option", "channels=16"]
    content = json.loads(invoke("run", "--method", "dna-pp", *words))
    assert len(content["search"]["found"]) == 5
    best = content["search"]["found"][0]
    assert best["architecture"].count("|") == 3 and "x" in best["architecture"]
    assert content["exported"]["architecture"] == best["architecture"]
    assert content["search"]["limits"] == {}
    assert "pynas retrain" in content["exported"]["note"]
    assert "has to be trained" in " ".join(invoke("export", "--run", folder).split())
    again = json.loads(invoke("search", folder, "--json"))
    assert again["found"] == content["search"]["found"]
    # No teacher is trained with labels.
    assert not (folder / "teacher.safetensors").exists()


def test_dna_distills_vits_from_a_convolutional_teacher(images, tmp_path):
    content = json.loads(invoke("run", "--space", "vit-mini", *arguments(images, tmp_path / "run")))
    model, metadata = export.load_subnet(content["exported"]["file"])
    assert teachers.accuracy(model, data.load(images, 32)) == metadata["test_accuracy"]
    assert sum(p.numel() for p in model.parameters()) == content["exported"]["params"]
