"""Images of the tests of runs."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Forty-eight pictures of two classes, bright above or bright below: 32 to train on, 16 to test on."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "halves.npz"
    labels = np.arange(48) % 2
    pictures = rng.integers(0, 120, (48, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    np.savez(path, x_train=pictures[:32], y_train=labels[:32], x_test=pictures[32:], y_test=labels[32:])
    return str(path)
