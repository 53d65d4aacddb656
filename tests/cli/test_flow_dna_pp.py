"""`pynas run --method dna-pp`, end to end on a few small images."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pynas.cli import app

pytestmark = pytest.mark.integration


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_searches_vits_beside_a_convolutional_teacher(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pictures = rng.integers(0, 120, (48, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    np.savez(tmp_path / "halves.npz", x_train=pictures[:32], y_train=labels[:32], x_test=pictures[32:], y_test=labels[32:])
    folder = tmp_path / "run"
    words = ["--data", tmp_path / "halves.npz", "--epochs", "2", "--batch-size", "8", "--run", folder]
    content = json.loads(invoke("run", "--method", "dna-pp", *words, "--option", "channels=16", "--json"))
    assert len(content["search"]["found"]) == 5
    best = content["search"]["found"][0]
    assert best["architecture"].count("|") == 3 and "x" in best["architecture"]
    assert content["exported"]["architecture"] == best["architecture"]
    assert best["madds"] <= content["search"]["limits"]["madds"]
    again = json.loads(invoke("search", folder, "--json"))
    assert again["found"] == content["search"]["found"]
    # No teacher is trained with labels.
    assert not (folder / "teacher.safetensors").exists()
