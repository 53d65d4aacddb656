"""The example that counts teacher-like picks: its table counts what it printed, and it runs end to end."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "examples" / "architecture_shift.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("architecture_shift", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_counts_own_and_other_picks(example):
    picks = {("dna", "MB6 k5"): ["MB6 k5", "MB6 k5", "MB3 k3"], ("dna-pp", "MB6 k5"): ["MB3 k7"] * 3,
             ("dna", "MB3 k3"): ["MB6 k5", "MB3 k7", "MB3 k7"], ("dna-pp", "MB3 k3"): ["MB3 k3"] * 3}  # fmt: skip
    rows = example.table(picks).splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:4] for row in cells] == [
        ["dna", "MB6 k5", "2 of 3", "1 of 3"],
        ["dna-pp", "MB6 k5", "0 of 3", "0 of 3"],
        ["dna", "MB3 k3", "0 of 3", "1 of 3"],
        ["dna-pp", "MB3 k3", "3 of 3", "0 of 3"],
    ]


@pytest.mark.slow
def test_it_runs(example, monkeypatch, capsys):
    small = ["--seeds", "1", "--epochs", "1", "--teacher-epochs", "1", "--train-images", "64", "--val-images", "32",
             "--batch-size", "32", "--teachers", "MB3 k3"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["architecture_shift.py", *small])
    example.main()
    output = capsys.readouterr().out
    for method in ("dna", "dna-pp"):
        picked = re.search(rf"^{method} beside MB3 k3, seed 0: (.*?) \(", output, re.MULTILINE)[1].split(", ")
        assert len(picked) == 6
        assert f"| {method} | MB3 k3 | {picked.count('MB3 k3')} of 6 | - |" in output
