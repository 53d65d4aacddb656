"""A finished run on a few small images, made once; a test that changes it works on a copy."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from pynas.cli import app


@pytest.fixture(scope="session")
def half_images(tmp_path_factory):
    """Two classes of noise, bright above or below: enough for every stage to have something to do."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    pictures = rng.integers(0, 120, (96, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    pictures[labels == 1, 16:] += 100
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x_train=pictures[:64], y_train=labels[:64], x_test=pictures[64:], y_test=labels[64:])
    return path


@pytest.fixture(scope="session")
def pynas():
    """Run a command line in this process; its stdout, and as JSON where it asks for that."""

    def run(*words):
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    return run


@pytest.fixture(scope="session")
def finished(half_images, tmp_path_factory, pynas):
    """The folder of a finished run of two epochs, read-only by agreement, and what `pynas run --json` said of it."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, pynas("run", "--data", half_images, "--epochs", 2, "--batch-size", 16, "--run", folder, "--json")


@pytest.fixture(scope="session")
def whole_run(finished):
    """The folder alone."""
    return finished[0]


@pytest.fixture
def run_copy(whole_run, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(whole_run, tmp_path / "run")
