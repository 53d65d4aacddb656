"""examples/pinas_nasbench201.py on a few images: every ranking in the table, and nothing done twice."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from pynas import tabular
from pynas.files import read_arrays

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "pinas_nasbench201.py"


def test_the_table_says_what_was_rated(half_images_8, tmp_path, monkeypatch):
    words = [str(SCRIPT), str(half_images_8), "--out", str(tmp_path), "--methods", "Pi-NAS", "SPOS", "--channels", "4", "6",
             "--image-size", "8", "--batch", "16", "--epochs", "1", "--linear-epochs", "1", "--queue", "16",
             "--cells", "6", "--seeds", "2", "--alone", "3", "--alone-epochs", "1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    content = json.loads((tmp_path / "results.json").read_text())
    rows = {row["method"]: row for row in content["methods"]}
    assert set(rows) == {
        "Pi-NAS",
        "SPOS",
        *(tabular.LABELS[key] for key in ("conv_params", "madds", "log_width", "random")),
    }
    whole = tabular.load("nasbench201").without("none", "skip_connect")
    rng = np.sort(np.random.default_rng(0).permutation(729)[:6])
    for name in ("Pi-NAS", "SPOS"):
        for seed in (0, 1):
            found, _ = read_arrays(tmp_path / f"{name}-{seed}" / "rated.npz", "pynas.example.rated")
            expected = kendalltau(-found["errors"], whole.accuracy[rng])[0]
            assert rows[name]["tau"][seed] == pytest.approx(expected, nan_ok=True)
    alone = json.loads((tmp_path / "alone.json").read_text())
    accuracies = [whole.accuracy[whole.index(text)] for text in alone["cells"]]
    assert len(accuracies) == 3
    assert alone["tau"] == pytest.approx(kendalltau([-e for e in alone["errors"]], accuracies)[0], nan_ok=True)
    assert (tmp_path / "consistency.png").is_file() and "| SPOS |" in (tmp_path / "results.md").read_text()
    before = (tmp_path / "SPOS-1" / "rated.npz").stat().st_mtime_ns
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (tmp_path / "SPOS-1" / "rated.npz").stat().st_mtime_ns == before


@pytest.fixture
def half_images_8(tmp_path):
    """Two classes of noise, bright above or below."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pictures = rng.integers(0, 120, (80, 8, 8), dtype=np.uint8)
    pictures[labels == 0, :4] += 100
    pictures[labels == 1, 4:] += 100
    path = tmp_path / "halves.npz"
    np.savez(path, x_train=pictures, y_train=labels, x_test=pictures[:8], y_test=labels[:8])
    return path
