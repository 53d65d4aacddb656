"""bench.all: what got slower is found, noise is not, what is missing is said; records come back; rows of real benchmarks."""

from __future__ import annotations

import argparse
import json
import time

import pytest
import torch

from bench import _timer
from bench import all as bench_all
from bench.all import BENCHMARKS, Record, compare, newest

STEADY = {"pareto: a": [0.50, 0.51, 0.49], "pareto: b": [0.2, 0.3, 0.4], "search: c": [0.010, 0.0101, 0.0099]}
MACHINE = {"device": "x86_64, 2 cores", "torch": "2", "threads": 1, "instructions": "avx2"}


def record(date="2026-11-28T00:00:00", **changes):
    """STEADY, with cases changed."""
    return Record(STEADY | {name.replace("__", ": "): ratios for name, ratios in changes.items()}, MACHINE, date)


def test_slower_cases_are_found_and_noise_is_not():
    # a: beyond both spreads (0.02 + 0.02); b: above its median by 0.15, but it is as noisy; c: +4 %, too little to say.
    new = record(pareto__a=[0.56, 0.55, 0.57], pareto__b=[0.4, 0.45, 0.5], search__c=[0.0104] * 3)
    found = compare(record(), new, ["pareto", "search"])
    assert [line.split(": ")[1:3] for line in found.slower] == [["pareto", "a"]]
    assert "0.56 of the reference's time, was 0.5 (+12%, noise 8%)" in found.slower[0]
    assert found.missing == [] and found.compared == 3


def test_a_spread_of_either_run_counts():
    for old, new in (([0.4, 0.5, 0.6], [0.65] * 3), ([0.5] * 3, [0.55, 0.65, 0.75])):
        assert not compare(record(pareto__a=old), record(pareto__a=new), ["pareto"]).slower
    assert compare(record(pareto__a=[0.4, 0.5, 0.6]), record(pareto__a=[0.71] * 3), ["pareto"]).slower
    assert compare(
        record(pareto__a=[0.5] * 3), record(pareto__a=[0.53] * 3), ["pareto"]
    ).slower  # beyond 5 % and no noise
    assert not compare(record(pareto__a=[0.5] * 3), record(pareto__a=[0.4] * 3), ["pareto"]).slower  # faster


def test_missing_cases_and_benchmarks_are_said():
    new = record()
    del new.ratios["pareto: b"]
    found = compare(record(), new, ["pareto", "queue_nce"])
    assert found.missing == [
        "missing: pareto: b, which the record has",
        "missing: queue_nce, the record has no case of it",
    ]
    assert found.compared == 1 and compare(record(), new, ["search"]).missing == []


def test_records_come_back_and_the_newest_is_found(tmp_path):
    record("2026-11-28T01:00:00").save(tmp_path / "all-cpu.json")
    record("2026-11-27T23:00:00").save(tmp_path / "all-other.json")
    again = Record.read(tmp_path / "all-cpu.json")
    assert again == record("2026-11-28T01:00:00")
    assert newest(tmp_path) == tmp_path / "all-cpu.json"
    with pytest.raises(ValueError, match="got none; --save writes one"):
        newest(tmp_path / "nothing")
    for text in ("[]", "{", '{"format": 0}', '{"format": 1, "machine": {}, "date": "", "ratios": {"a": 1}}'):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ValueError, match=r"expected a record of bench.all --save, got .*broken"):
            Record.read(tmp_path / "broken.json")


def ended(monkeypatch, capsys, new, failed, *words):
    """Exit status and output of the command, with a run that measured `new`."""
    monkeypatch.setattr(bench_all, "measured", lambda names, arguments: (new, failed))
    monkeypatch.setattr("sys.argv", ["all", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        bench_all.main()
    said = capsys.readouterr()
    return end.value.code, said.out + said.err


def test_the_exit_status_says_whether_anything_got_slower(tmp_path, monkeypatch, capsys):
    def call(new, *words, failed=()):
        return ended(monkeypatch, capsys, new, list(failed), *words)

    path, names = tmp_path / "all-cpu.json", ["pareto", "search"]
    record().save(path)
    assert call(record(), *names, "--compare", path)[0] == 0
    status, said = call(record(pareto__a=[1.0] * 3), *names, "--compare", tmp_path, "--save", tmp_path / "new.json")
    assert status == 1 and "slower: pareto: a" in said and "3 cases compared" in said and "1 slower, 0 missing" in said
    assert Record.read(tmp_path / "new.json").ratios["pareto: a"] == [1.0] * 3
    status, said = call(record(), *names, "--compare", path, failed=["failed: search: no memory"])
    assert status == 1 and "failed: search: no memory" in said
    elsewhere = record()
    elsewhere.machine = MACHINE | {"threads": 2}
    assert (
        "measured elsewhere, ratios may differ by that alone: threads 1, now 2" in call(elsewhere, "--compare", path)[1]
    )
    for words in (
        ["--compare", tmp_path / "none.json"],
        [],
        ["nothing", "--compare", path],
        ["--compare", tmp_path / "x"],
    ):
        status, said = call(record(), *words)
        assert status == 2 and len(said.splitlines()) == 1 and said.startswith("[bench.all] ")


def test_a_benchmark_that_fails_is_said(monkeypatch):
    words = ("--no-such-option",)
    monkeypatch.setitem(BENCHMARKS, "pareto", bench_all.Benchmark("gpu_facts", words, on_gpu=False))
    new, failed = bench_all.measured(["pareto"], argparse.Namespace(repeats=2, device="cpu"))
    assert new.ratios == {} and len(failed) == 1 and "unrecognized arguments: --json" in failed[0]


def test_rows_of_kernels_have_time_and_memory(tmp_path, capsys):
    options = argparse.Namespace(device="cpu", repeats=3, json=tmp_path / "out.jsonl")
    functions = {
        "pynas": lambda: time.sleep(0.02),
        "into a buffer": lambda: None,
        "eager": lambda: (time.sleep(0.01), torch.ones(10_000_000)),
    }
    _timer.report("kernel", "a case", 8, functions, options)
    found = Record()
    found.add("pareto", BENCHMARKS["pareto"], options.json.read_text())
    row = json.loads(options.json.read_text())
    seconds, peaks = row["seconds"], row["peak_bytes"]
    assert seconds["pynas"] >= 0.02 and seconds["eager"] >= 0.01 and seconds["into a buffer"] < 0.02
    assert found.ratios == {"pareto: a case": [seconds["pynas"] / seconds["eager"]]}
    assert found.machine.keys() == MACHINE.keys()
    assert 39e6 < peaks["eager"] < 45e6 and peaks["pynas"] < 3e6
    assert f"{peaks['eager'] / 1e6:.1f}" in capsys.readouterr().out.split("eager")[1].split(" MB")[0]


def test_rows_of_searches_and_ratings_are_understood():
    found = Record()
    tail = '"device": "d", "torch": "2", "threads": 1, "instructions": "i"}'
    found.add("search", BENCHMARKS["search"],
              '{"instance": "36x50", "seconds": {"pynas": 1.0, "milp": 4.0}, "equal": ["pynas", "milp"], ' + tail + "\n"
              '{"instance": "80x54", "seconds": {"pynas": 1.0, "milp": 40.0}, "equal": ["pynas"], ' + tail)  # fmt: skip
    found.add("rating-dna", BENCHMARKS["rating-dna"],
              '{"case": "dna 0", "seconds": {"(a) each path alone": 8.0, "(c) pynas, float32": 2.0}, ' + tail)  # fmt: skip
    assert found.ratios == {"search: 36x50": [0.25], "rating-dna: dna 0": [0.25]}
