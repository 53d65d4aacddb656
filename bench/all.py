"""What got slower: every benchmark that times pynas beside a reference, shortly, against a record of an earlier run.

    python -m bench.all --save bench/results/all-cpu.json          # a new record
    python -m bench.all --compare bench/results/all-cpu.json       # or --compare alone: the newest all-*.json of bench/results
    python -m bench.all --list

A number is the ratio of pynas's time to the reference's in the same run, never a time: a busy machine slows both. Each benchmark
runs --repeats times, in rounds over all of them. A case is slower where the median of its ratios is above the recorded one by
more than both spreads (the greatest ratio less the least, of the repeats then and now) and by more than 5 %. Ratios of other
machines, threads or versions differ by themselves: where the record names others, a line says so. Exit status 1: something got
slower, or a benchmark failed or is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._command import command_line, device, run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
FORMAT = 1
LEAST = 0.05
# What must be equal for ratios to be comparable.
MACHINE = ("device", "torch", "threads", "instructions")


@dataclass(frozen=True)
class Benchmark:
    """A module of bench, its arguments for a short run, and parts of the names of pynas's row and of the reference's."""

    module: str
    words: tuple[str, ...] = ("--short",)
    ours: str = "pynas"
    reference: str = "eager"
    on_gpu: bool = True


def rating(*words: str) -> Benchmark:
    """A case of the benchmark of ratings."""
    return Benchmark("rating", ("--sample", "4", "--dtype", "float32", "--case", *words), "(c)", "(a)")


FAMILIES = ("ofa-layers", "autoformer", "bossnas-mbconv", "nasbench201-edges", "timm-vit")
SEARCHES = ("6x1296 correlated", "36x50 correlated", "weakly correlated 10x10 R1000")
BENCHMARKS = {
    **{name: Benchmark(name) for name in ("path_batch_norm", "path_distance", "ensemble_loss", "queue_nce")},
    "saliency_boxes": Benchmark("saliency_boxes"),
    "pareto": Benchmark("pareto"),
    "training": Benchmark("training", ("--short", "--case", "dna")),
    "search": Benchmark("search", ("--solvers", "pynas,milp", *SEARCHES), "pynas", "milp", on_gpu=False),
    "rating-dna": rating("dna", "--layers", "2"),
    "rating-boss": rating("boss", "--layers", "2"),
    "rating-slimmable": rating("slimmable", "--batches", "2"),
    "rating-transformer": rating("transformer", "--layers", "2"),
    "rating-others": rating("others", "--family", *FAMILIES),
}


@dataclass
class Record:
    """Ratios of pynas to the reference by "benchmark: case", one of each repeat; the machine, and when."""

    ratios: dict[str, list[float]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record that `save` wrote.

        Raises:
            ValueError: the file is missing, or is none.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            return cls({str(name): [float(r) for r in ratios] for name, ratios in content["ratios"].items()},
                       dict(content["machine"]), str(content["date"]))  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected a record of bench.all --save, got {path} ({error!r})") from None

    def save(self, path: Path) -> None:
        """Write it as JSON, a case a line."""
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(ratios)}" for name, ratios in self.ratios.items())
        head = json.dumps({"format": FORMAT, "date": self.date, "machine": self.machine})
        path.write_text(f'{head[:-1]}, "ratios": {{\n{lines}\n}}}}\n', encoding="utf-8")

    def add(self, name: str, benchmark: Benchmark, text: str) -> None:
        """Take up the lines of JSON that a benchmark wrote; cases without a reference are left out."""
        for content in map(json.loads, text.splitlines()):
            finished = content.get("equal", content["seconds"])  # a solver that did not finish has no time
            ours, reference = (
                next((seconds for row, seconds in content["seconds"].items() if part in row and row in finished), None)
                for part in (benchmark.ours, benchmark.reference)
            )
            if ours is not None and reference is not None:
                case = f"{name}: {content.get('case') or content.get('instance')}"
                self.ratios.setdefault(case, []).append(ours / reference)
            self.machine = {key: content[key] for key in MACHINE}


@dataclass
class Comparison:
    """Lines of what got slower and of what is missing, and how many cases were compared."""

    slower: list[str]
    missing: list[str]
    compared: int


def compare(old: Record, new: Record, asked: list[str]) -> Comparison:
    """Compare the benchmarks asked for."""
    slower, missing = [], []
    expected = [case for case in old.ratios if case.partition(": ")[0] in asked]
    for case in expected:
        before, now = old.ratios[case], new.ratios.get(case)
        if not now:
            missing.append(f"missing: {case}, which the record has")
            continue
        was, found = statistics.median(before), statistics.median(now)
        noise = max(LEAST * was, spread(before) + spread(now))
        if found - was > noise:
            slower.append(f"slower: {case}: {found:.3g} of the reference's time, was {was:.3g} (+{found / was - 1:.0%}, "
                          f"noise {noise / was:.0%})")  # fmt: skip
    missing += [f"missing: {name}, the record has no case of it" for name in asked
                if not any(case.startswith(f"{name}: ") for case in old.ratios)]  # fmt: skip
    return Comparison(slower, missing, len(set(expected) & set(new.ratios)))


def spread(ratios: list[float]) -> float:
    """The greatest less the least."""
    return max(ratios) - min(ratios)


def newest(folder: Path) -> Path:
    """The record `all-*.json` of the latest date in a folder.

    Raises:
        ValueError: the folder has none.
    """
    found = sorted(folder.glob("all-*.json"), key=lambda path: Record.read(path).date)
    if not found:
        raise ValueError(f"expected all-*.json in {folder}, got none; --save writes one")
    return found[-1]


def measured(names: list[str], arguments: argparse.Namespace) -> tuple[Record, list[str]]:
    """Run the benchmarks in rounds: their record, and a line for each that failed."""
    record, failed = Record(date=time.strftime("%Y-%m-%dT%H:%M:%S")), []
    for number in range(arguments.repeats):
        for name in [name for name in names if not any(line.startswith(f"failed: {name}:") for line in failed)]:
            start = time.perf_counter()
            if why := run_one(name, arguments.device, record):
                failed.append(f"failed: {name}: {why}")
            print(f"round {number + 1} of {arguments.repeats}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return record, failed


def run_one(name: str, device: str, record: Record) -> str:
    """Run one benchmark once, in a process of its own, into the record; why it failed, in a line, or nothing."""
    benchmark = BENCHMARKS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.jsonl")
        command = [sys.executable, "-m", f"bench.{benchmark.module}", "--json", str(out), *benchmark.words]
        command += ["--device", device] if benchmark.on_gpu else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            return (
                (done.stderr or done.stdout).strip().splitlines()[-1:][0] if done.stderr or done.stdout else "no word"
            )
        record.add(name, benchmark, out.read_text(encoding="utf-8") if out.exists() else "")
    return ""


def report(old: Record, new: Record, names: list[str]) -> bool:
    """Print the comparison; return whether nothing got slower and nothing is missing."""
    if differing := [key for key in MACHINE if old.machine.get(key) != new.machine.get(key)]:
        pairs = ", ".join(f"{key} {old.machine.get(key)}, now {new.machine.get(key)}" for key in differing)
        print(f"measured elsewhere, ratios may differ by that alone: {pairs}")
    found = compare(old, new, names)
    print(*found.slower, *found.missing, sep="\n", end="\n" if found.slower or found.missing else "")
    print(f"{found.compared} cases compared with the record of {old.date}: {len(found.slower)} slower, "
          f"{len(found.missing)} missing")  # fmt: skip
    return not found.slower and not found.missing


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="default: all")
    parser.add_argument(
        "--compare", type=Path, nargs="?", const=RESULTS, metavar="RECORD", help="a file, or a folder's newest"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the new record")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each benchmark; fewer than 3 know no noise")
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--list", action="store_true", help="print the benchmarks and their commands, run nothing")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.benchmarks if name not in BENCHMARKS]:
        parser.error(f"expected benchmarks of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    if arguments.list:
        print(
            *(f"{name:20} python -m bench.{b.module} {' '.join(b.words)}" for name, b in BENCHMARKS.items()), sep="\n"
        )
        return
    if not arguments.compare and not arguments.save:
        parser.error("expected --compare, --save FILE or both, got neither")
    try:
        old = arguments.compare and Record.read(
            newest(arguments.compare) if arguments.compare.is_dir() else arguments.compare
        )
    except ValueError as error:
        parser.error(str(error))
    names = arguments.benchmarks or list(BENCHMARKS)
    new, failed = measured(names, arguments)
    if failed:
        print(*failed, sep="\n")
    if arguments.save:
        new.save(arguments.save)
    passed = report(old, new, names) if old else True
    raise SystemExit(0 if passed and not failed else 1)


if __name__ == "__main__":
    run(main)
