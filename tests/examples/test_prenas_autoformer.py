"""The PreNAS experiment: its table, and the whole script on a few images."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "prenas_autoformer.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("prenas_autoformer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_differences_are_taken_seed_by_seed(example):
    found = {
        "balanced": [{"accuracy": [50, 60]}, {"accuracy": [70, 80]}],
        "uniform": [{"accuracy": [48, 60]}, {"accuracy": [67, 79]}],
    }
    assert example.table(found).splitlines()[2:] == [
        "| balanced | 65.00 ± 14.14 | +0.00 ± 0.00 |",
        "| uniform | 63.50 ± 13.44 | -1.50 ± 0.71 |",
    ]


@pytest.mark.slow
@pytest.mark.integration
def test_the_whole_script(example, tmp_path, monkeypatch, capsys):
    words = ["--limit-images", "100", "--epochs", "1", "--seeds", "1", "--interval", "200000", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["prenas", *words, "--samplings", "balanced", "fairnas"])
    example.main()
    first = capsys.readouterr().out
    assert (tmp_path / "accuracies.png").exists() and "| fairnas |" in first and "balanced, seed 0" in first
    example.main()
    second = capsys.readouterr().out
    assert "seed 0" not in second and second.splitlines() == first.splitlines()[-len(second.splitlines()) :]
