"""Command lines of all benchmarks: --help, and mistakes in one line with exit code 2."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench import _command
from bench.all import BENCHMARKS, SEARCHES
from bench.search import chosen_instances

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path.stem for path in (ROOT / "bench").glob("*.py") if "def main()" in path.read_text(encoding="utf-8")
)
# Words before the unknown option, where a benchmark wants some first.
WORDS = {
    "compress": ["lite0", "--run", "out"],
    "train_dna": ["images.npz", "--run", "out"],
    "full_width": ["images.npz", "--run", "out"],
    "mbconv_23": ["images", "--run", "out"],
    "calibration": ["nats-size"],
    "pack_images": ["unpack", "folder", "out.npz"],
    "search_one": ["pynas", "mbconv-dna"],
    "table": ["out.jsonl"],
}
UNKNOWN = {
    "search": [["no-such-instance"], ["--solvers", "highs,no-such-solver"]],
    "search_one": [["no-such-solver", "mbconv-dna"], ["pynas", "no-such-instance"]],
    "all": [["no-such-benchmark", "--compare"], ["--compare", "no-such-file"]],
    "rating": [["--case", "no-such-case"], ["--dtype", "int8"], ["--family", "no-such-family"], ["--device", "abacus"]],
    "pareto": [["--device", "abacus"], ["--repeats", "many"]],
    "compress": [["no-such-model"]],
    "zero_cost": [["--bench", "no-such-table"]],
    "calibration": [["no-such-table"]],
    "gpu": [["folder", "no-such-step"]],
    "functional_rating": [["--space", "no-such-space"]],
    "scale": [["--space", "no-such-space"], ["--teacher", "no-such-teacher"]],
    "pack_images": [["no-such-command"], ["pack", "a", "b", "--form", "no-such-form"]],
}


def end_of(module: str, words: list[str], monkeypatch, capsys) -> tuple[int, str, str]:
    """Exit status, standard output and error output of `python -m bench.MODULE WORDS`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [module, *words])
    with pytest.raises(SystemExit) as end:
        _command.run(importlib.import_module(f"bench.{module}").main)
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize("module", MODULES)
def test_help_and_a_wrong_option(module, monkeypatch, capsys):
    status, out, err = end_of(module, ["--help"], monkeypatch, capsys)
    assert status == 0 and err == "" and f"usage: python -m bench.{module} " in out
    status, out, err = end_of(module, [*WORDS.get(module, []), "--no-such-option"], monkeypatch, capsys)
    assert status == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"[bench.{module}] ") and "--no-such-option" in err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_short_runs_name_options_that_are_there(name, monkeypatch, capsys):
    benchmark = BENCHMARKS[name]
    _, _, err = end_of(benchmark.module, [*benchmark.words, "--no-such-option"], monkeypatch, capsys)
    assert "unrecognized arguments: --no-such-option;" in err
    if name == "search":
        assert len(chosen_instances([word for word in benchmark.words if "x" in word])) == len(SEARCHES)


@pytest.mark.parametrize(("module", "words"), [(module, words) for module, each in UNKNOWN.items() for words in each])
def test_unknown_names(module, words, monkeypatch, capsys):
    status, _, err = end_of(module, words, monkeypatch, capsys)
    wrong = next(
        word for word in words if word.startswith("no-such") or word in ("abacus", "many", "int8") or "," in word
    )
    assert status == 2 and len(err.splitlines()) == 1 and wrong.split(",")[-1] in err


def test_a_package_that_is_missing_is_said_in_a_line(capsys):
    assert _command.installed("no_such_module", "no-such-package") is None
    assert capsys.readouterr().out == "no-such-package is not installed: left out (pip install no-such-package)\n"
    assert _command.installed("json", "json").dumps({}) == "{}"
