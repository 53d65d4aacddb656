"""Result of a check: fields for programs, and a table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pynas.evaluation.exported import Agreement
from pynas.evaluation.traces import count_paths, digits
from pynas.rating.tree import Path

_WIDTH = 100
_LABEL = 12
# Space at which no line is broken.
_TIED = "\xa0"


@dataclass(frozen=True)
class NormCheck:
    """Comparison of `rate` with each path alone in one norm mode.

    difference: largest relative difference of two scores; None where none could be compared. path: the path that has it.
    alone, engine: seconds per path, each path alone and by `rate`, set-up included. refused: the error of `rate`, or "".
    """

    norm: str
    difference: float | None
    path: Path | None
    tolerance: float
    alone: float
    engine: float
    refused: str = ""

    @property
    def ok(self) -> bool:
        """Whether all scores agree."""
        return self.difference is not None and self.difference <= self.tolerance

    @property
    def speed_up(self) -> float:
        """Time of each path alone over the time of `rate`, on the paths of the check."""
        return self.alone / self.engine if self.engine else float("nan")


@dataclass(frozen=True)
class Tree:
    """Work that all paths share.

    widths: distinct prefixes after every layer; None where a rule leaves too many to count. alone, engine: estimated seconds
    for all paths in the norm mode `norm`, each alone and by `rate`; None where nothing is left to estimate, or far too much.
    shared: False where a module has state, so that each path runs alone.
    """

    widths: tuple[int, ...] | None
    norm: str = ""
    alone: float | None = None
    engine: float | None = None
    shared: bool = True

    def lines(self) -> list[str]:
        """Describe the work of all paths."""
        if self.widths is None:
            return ["too many to count under `allowed`"]
        paths, runs = self.widths[-1], sum(self.widths)
        whole = paths * len(self.widths)
        if not self.shared:
            return [f"{_named(paths, 'path')}, each run alone: {_named(whole, 'layer run')}"]
        if runs == whole:
            lines = [f"{_named(paths, 'path')}, no prefixes to share: {_named(whole, 'layer run')}"]
        else:
            lines = [f"{_count(paths)} paths share prefixes: {_count(runs)} layer runs instead of {_count(whole)} "
                     f"({_times(whole / runs)} fewer)"]  # fmt: skip
        if len(self.widths) > 1:
            lines.append("distinct prefixes after each layer: " + ", ".join(map(_count, self.widths)))
        if self.alone is not None and self.engine is not None:
            lines.append(f"estimated for all, with norm={self.norm!r} and the batches of this check: {duration(self.alone)} "
                         f"alone, {duration(self.engine)} by rate ({_times(self.alone / self.engine)})")  # fmt: skip
        return lines


@dataclass(frozen=True)
class Check:
    """Result of `check`; `print` gives a table of at most 100 columns.

    paths: the paths that ran. candidates: number of candidates that they use, and of all. setting: batches, device and type.
    norms: one comparison per norm mode. problems: lines that say what is wrong, each of which makes `ok` False.
    warnings: those of `rate` and of the counting: what ran without stacks or shared prefixes, and why. together: candidates
    that share work. shapes: layers whose candidates put out different shapes. tree: work of all paths. costs, exports: costs
    and outputs of exported networks.
    """

    paths: tuple[Path, ...]
    candidates: tuple[int, int]
    setting: str
    norms: tuple[NormCheck, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    together: tuple[str, ...]
    shapes: tuple[str, ...]
    tree: Tree
    costs: Agreement
    exports: Agreement

    @property
    def ok(self) -> bool:
        """Whether all can be trusted: a mode runs and all that run agree, nothing depends on order or chance, and neither
        costs nor exports are wrong (refused ones are not)."""
        wrong = self.problems or self.costs.ok is False or self.exports.ok is False
        return not wrong and any(norm.ok for norm in self.norms)

    def __str__(self) -> str:
        used, candidates = self.candidates
        some = count_paths(self.paths)
        lines = [
            f"pynas.check: {'ok' if self.ok else 'NOT ok'}",
            f"{some} with {used} of {candidates} candidates; {self.setting}",
        ]
        lines += [
            "",
            f"{'norm':{_LABEL}}{'rate = alone':14}{'difference':12}{'at path':>14}{'alone':>13}{'rate':>13}{'speed-up':>10}",
        ]
        lines += [line for norm in self.norms for line in _norm_lines(norm)]
        tolerance = self.norms[0].tolerance
        lines += _row("", f"largest relative difference of a score, tolerance {tolerance:.0e}; seconds are per path, for all "
                          f"batches, on {some}, set-up of rate included; a path is written by its candidates")  # fmt: skip
        lines.append("")
        rows: list[tuple[str, Sequence[str]]] = [("PROBLEMS", self.problems), ("all paths", self.tree.lines())]
        rows += [("run together", self.together), ("warnings", self.warnings), ("shapes", self.shapes)]
        rows += [("costs", [_judged(self.costs)]), ("export", [_judged(self.exports)])]
        for label, texts in rows:
            for number, text in enumerate(texts):
                lines += _row(label if number == 0 else "", text)
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """Time with a unit."""
    for size, unit in ((1e-3, "us"), (1, "ms"), (120, "s"), (7200, "min"), (float("inf"), "h")):
        if seconds < size:
            value = seconds / {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}[unit]
            return f"{value:,.{0 if value >= 100 else 1}f}{_TIED}{unit}"
    raise AssertionError


def _norm_lines(norm: NormCheck) -> list[str]:
    if norm.refused:
        return _row(norm.norm, f"refused: {norm.refused}")
    if norm.difference is None:
        return _row(norm.norm, "not compared: no path gives a finite score alone")
    path = digits(norm.path) if norm.path is not None else ""
    path = path if len(path) <= 13 else path[:10] + "..."
    times = f"{duration(norm.alone):>13}{duration(norm.engine):>13}{_times(norm.speed_up):>10}"
    line = f"{norm.norm:{_LABEL}}{'yes' if norm.ok else 'NO':14}{norm.difference:<12.1e}{path:>14}{times}"
    return [line.replace(_TIED, " ")]


def _judged(agreement: Agreement) -> str:
    return agreement.text if agreement.ok is not False else f"WRONG: {agreement.text}"


def _row(label: str, text: str) -> list[str]:
    """Lines of a labelled text."""
    lines = textwrap.wrap(text, _WIDTH - _LABEL - 2, break_on_hyphens=False)
    return [
        f"{label if number == 0 else '':{_LABEL + 2}}{line}".replace(_TIED, " ") for number, line in enumerate(lines)
    ]


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"{float(number):.1e}"


def _named(number: int, name: str) -> str:
    return f"{_count(number)} {name}{'s' * (number != 1)}"


def _times(ratio: float) -> str:
    return f"{ratio:.2g}x" if ratio < 10 else f"{ratio:,.0f}x"
