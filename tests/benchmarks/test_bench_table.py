"""bench.table: cells, the fastest of those that do the whole work, and what is not ours."""

from __future__ import annotations

import json

import pytest

from bench import table

SEARCH = {"bench": "search", "instance": "36x50", "seconds": {"pynas": 0.002, "cbc": 0.001, "scip": 0.0001, "highs": 0.5},
          "peak_bytes": {"pynas": 6_500_000, "cbc": 1e6, "scip": None, "highs": 2e6}, "equal": ["pynas", "cbc"],
          "wrong": {"highs": "breaks a limit by 1"}}  # fmt: skip
KERNEL = {"bench": "kernel", "case": "[2, 3]", "seconds": {"pynas": 0.001, "eager": 0.003, "copy": 0.0001}}
BUFFER = {"bench": "kernel", "case": "[4]", "seconds": {"pynas": 0.002, "into a buffer": 0.001, "eager": 0.0015}}


def test_tables(tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (SEARCH, KERNEL, BUFFER)))
    monkeypatch.setattr("sys.argv", ["table", str(path)])
    table.main()
    assert capsys.readouterr().out.splitlines() == [
        "| search | pynas | cbc | scip | highs |",
        "|---|---|---|---|---|",
        "| 36x50 | 2 ms, 6.5 MB | **1 ms, 1.0 MB** | >0.1 ms | 500 ms, 2.0 MB |",
        "",
        "Ours is the fastest in 0 of 1.",
        "- 36x50: cbc",
        "",
        "| kernel | pynas | eager | copy | into a buffer |",
        "|---|---|---|---|---|",
        "| [2, 3] | **1 ms** | 3 ms | 0.1 ms |  |",
        "| [4] | 2 ms | 1.5 ms |  | **1 ms** |",
        "",
        "Ours is the fastest in 2 of 2.",
    ]
    path.write_text("{}\n")
    with pytest.raises(SystemExit) as end:
        table.main()
    assert (
        end.value.code == 2 and "[bench.table] expected lines of a benchmark's --json, got " in capsys.readouterr().err
    )
