"""Fixture: a folder of images on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """Return a function that writes train/CLASS/i.png and val/CLASS/i.png of random pixels and several sizes."""

    def make(root: Path, classes: tuple[str, ...] = ("ant", "bee"), count: int = 10) -> Path:
        rng = np.random.default_rng(0)
        for part in ("train", "val"):
            for name in classes:
                (root / part / name).mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / part / name / f"{i}.png")
        return root

    return make
