"""Records of benchmarks as Markdown tables, a row per case: python -m bench.table FILE.jsonl ...

A cell is the time and the peak memory; the fastest of those that do the whole work is bold. `>`: did not finish. Copies and
products alone are limits, not answers, and never bold. Below each table: the cases whose fastest line is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._command import command_line, run

LIMITS = ("copy", "clone", "products", "convolutions alone")
OURS = ("pynas", "into a buffer", "(c)")


def ours(row: str) -> bool:
    """Whether a row's name is one of this project's."""
    return row.startswith(OURS)


def milliseconds(seconds: float) -> str:
    """A time in three digits, or in whole milliseconds."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{1e3 * seconds:,.0f} ms"


def finished(record: dict[str, Any]) -> list[str]:
    """Rows that ended within the time; records of the search before 2026-11-28 leave pynas out."""
    rows = list(record.get("equal", record["seconds"])) + list(record.get("wrong", ()))
    return rows if "wrong" in record or "equal" not in record else ["pynas", *rows]


def fastest(record: dict[str, Any]) -> str:
    """The row of the least time that did the whole work; empty where none did."""
    rows = [row for row in finished(record) if row not in record.get("wrong", ()) and not row.startswith(LIMITS)]
    return min(rows, key=record["seconds"].__getitem__, default="")


def cell(record: dict[str, Any], row: str) -> str:
    """Time and memory of a row, empty where it was not measured."""
    if row not in record["seconds"]:
        return ""
    text = ("" if row in finished(record) else ">") + milliseconds(record["seconds"][row])
    peak = record.get("peak_bytes", {}).get(row)
    text += "" if peak is None else f", {peak / 1e6:.1f} MB"
    return f"**{text}**" if row == fastest(record) else text


def table(records: Sequence[dict[str, Any]]) -> str:
    """One benchmark's table, and what is not fastest."""
    rows = list(dict.fromkeys(row for record in records for row in record["seconds"]))
    name = records[0].get("bench", "")
    lines = [f"| {name} | {' | '.join(rows)} |", "|---|" + "---|" * len(rows)]
    for record in records:
        cells = " | ".join(cell(record, row) for row in rows)
        lines.append(f"| {record.get('case') or record.get('instance')} | {cells} |")
    behind = [record for record in records if fastest(record) and not ours(fastest(record))]
    lines += ["", f"Ours is the fastest in {len(records) - len(behind)} of {len(records)}."]
    lines += [f"- {record.get('case') or record.get('instance')}: {fastest(record)}" for record in behind]
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    by_bench: dict[str, list[dict[str, Any]]] = {}
    for path in arguments.files:
        try:
            for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                if record["seconds"]:
                    by_bench.setdefault(record["bench"], []).append(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"expected lines of a benchmark's --json, got {path} ({error!r})")
    print("\n\n".join(map(table, by_bench.values())))


if __name__ == "__main__":
    run(main)
