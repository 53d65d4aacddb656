"""DNA's options from the command line, on a few small images."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pynas.cli import app
from pynas.rating.store import load_block

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of noise, bright above or below."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pictures = rng.integers(0, 120, (48, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    pictures[labels == 1, 16:] += 100
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x_train=pictures[:40], y_train=labels[:40], x_test=pictures[40:], y_test=labels[40:])
    return path


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_options_accumulation_and_functional_ratings(images, tmp_path):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    words = ["--data", images, "--epochs", 4, "--batch-size", 8, "--accumulate", 2, "--run", folder]
    for option in (
        "strategy=progressive-b",
        "keep=2",
        "loss_weights=[1, 2, 1, 1]",
        f"cache={cache}",
        "cache_training=true",
    ):
        words += ["--option", option]
    invoke("train", *words)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 8  # 4 batches of 8 out of 32 images, two to a step, four epochs
    assert [sorted(step["losses"])[0] for step in steps] == [f"block_{b}" for b in (1, 1, 2, 2, 3, 3, 4, 4)]
    (features,) = cache.glob("*/index.bin")
    assert features.stat().st_size == 16 * 40
    for loss in ("kl", "error"):
        invoke("rate", "--run", folder, "--loss", loss)
        tables, made_from = load_block(folder / "scores" / "block_4.npz")
        assert made_from["loss"] == loss and len(tables[0]) == 16
    scores = tables[0].scores
    assert np.all((scores >= 0) & (scores <= 1)) and np.allclose(scores * 8, np.round(scores * 8))
    assert json.loads(invoke("search", folder, "--json"))["found"]
