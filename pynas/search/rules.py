"""Rules that fix or forbid choices of a space: which paths of its blocks a search may take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.spaces import Architecture, Cell, Space

_FORM = re.compile(r"\s*(?:(?:block\s+(\d+))?\s*(?:layer\s+(\d+))?\s*:)?\s*(.+?)\s*", re.IGNORECASE)
_NUMBERED = re.compile(r"(cell|candidate)\s+(\d+)", re.IGNORECASE)
_FIELD = re.compile(r"(\w+)\s*=\s*(.+)")
# `skip` stands for NAS-Bench-201's `skip_connect` too.
_SUFFIX = "_connect"


@dataclass(frozen=True)
class Rule:
    """One rule, `[block B] [layer L]: WHAT`; `Rules` says what it does.

    fix: whether it fixes, or forbids. block, layer: None for all. what: kind ("cell", "candidate", "field", "word") and its values.
    """

    text: str
    fix: bool
    block: int | None
    layer: int | None
    what: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{'fix' if self.fix else 'forbid'} {self.text!r}"

    def mask(self, block: int, number: int, cell: Cell, paths: np.ndarray) -> np.ndarray:
        """Return which paths `[n, L]` of a cell the rule leaves, bool `[n]`; block, number: of the block and of the cell."""
        if self.block not in (None, block):
            return np.ones(len(paths), bool)
        if self.what[0] == "cell":
            return np.full(len(paths), (number == self.what[1]) == self.fix)
        layers = range(len(cell.layers)) if self.layer is None else [self.layer]
        hits = [
            self.hits(cell.layers[n])[paths[:, n]]
            for n in layers
            if n < len(cell.layers) and self.concerns(cell.layers[n])
        ]
        if not hits:
            absent = self.block is not None and self.layer is not None and self.layer >= len(cell.layers)
            return np.full(len(paths), not (self.fix and absent))
        return np.all(hits, axis=0) if self.fix else ~np.any(hits, axis=0)

    def hits(self, candidates: Sequence[Any]) -> np.ndarray:
        """Return which candidates of a layer the rule speaks of, bool `[n]`."""
        kind, *values = self.what
        if kind == "candidate":
            return np.arange(len(candidates)) == values[0]
        if kind == "field":
            return np.array(
                [values[0] in _fields(each) and _alike(_fields(each)[values[0]], values[1]) for each in candidates]
            )
        return np.array([values[0] in _words(each) for each in candidates])

    def concerns(self, candidates: Sequence[Any]) -> bool:
        """Whether the rule speaks of a layer: one with its field, or with a candidate that it names."""
        if self.what[0] == "field":
            return any(self.what[1] in _fields(each) for each in candidates)
        return bool(self.hits(candidates).any())


class Rules:
    """Rules that fix or forbid choices: `Rules(space, fix=["block 2: cell 1"], forbid=["kernel=7"])`.

    A rule is `WHAT`, `block B: WHAT`, `layer L: WHAT` or `block B layer L: WHAT`, of all blocks and layers where none is named; all
    numbers count from 0, as in an architecture's string form. WHAT is `cell C`; or candidates: `FIELD=VALUE` of their
    descriptions (`kernel=5`), their label or a text among their fields (`MB6 k5`, `skip_connect`), or `candidate K`.

    `fix` leaves the paths that take such a candidate in every layer that offers one (for FIELD=VALUE: that has the field); a
    layer that is named with its block has to be there. `forbid` leaves the paths that take none.

    Raises:
        InputError: a rule of another form, or that names what the space does not have.
    """

    def __init__(self, space: Space, fix: Sequence[str] = (), forbid: Sequence[str] = ()) -> None:
        self.space = space
        self.rules = [
            read_rule(space, text, fixed) for fixed, texts in ((True, fix), (False, forbid)) for text in texts
        ]

    def broken(self, architecture: Architecture) -> list[Rule]:
        """Return the rules that an architecture of the space breaks."""
        return [rule for rule in self.rules if not all(
            rule.mask(b, choice.cell, self.space.blocks[b][choice.cell], np.array([choice.path]))[0]
            for b, choice in enumerate(architecture)
        )]  # fmt: skip


# Rules, or which paths count: bool arrays of the score tables' shapes by `[block][cell]`.
Allowed = Rules | Sequence[Sequence[np.ndarray]]


def restrict(
    name: str, allowed: Allowed, space: Space, paths: Sequence[Sequence[np.ndarray]], kept: list[list[np.ndarray]]
) -> None:
    """Take the paths that are not allowed out of `kept`.

    name: the caller's, in front of the error message. paths: `[n, L]`, and kept: bool `[n]`, by `[block][cell]`.

    Raises:
        InputError: rules of another space, masks of other shapes, or a block of which no path is left; the rule is named.
    """
    steps: dict[str, Callable[[int, int, np.ndarray], np.ndarray]] = {}
    if isinstance(allowed, Rules):
        if allowed.space.blocks != space.blocks:
            raise InputError(f"[{name}] expected rules of {space}, got some of {allowed.space}")
        for rule in allowed.rules:
            steps[str(rule)] = lambda b, c, rows, rule=rule: rule.mask(b, c, space.blocks[b][c], rows)  # type: ignore[misc]
    else:
        expected, got = (
            [[cell.counts for cell in cells] for cells in space.blocks],
            [[*map(np.shape, cells)] for cells in allowed],
        )
        if got != expected:
            raise InputError(f"[{name}] expected allowed paths of the shapes {expected}, got {got}")
        steps["allowed"] = lambda b, c, rows: np.asarray(allowed[b][c], bool)[tuple(rows.T)]
    for b, cells in enumerate(kept):
        before: list[str] = []
        for text, mask in steps.items():
            masks = [mask(b, c, rows) for c, rows in enumerate(paths[b])]
            if any((some & ~left).any() for some, left in zip(cells, masks)):
                cells[:] = [some & left for some, left in zip(cells, masks)]
                if not any(some.any() for some in cells):
                    others = f" beside {', '.join(before)}" if before else ""
                    raise InputError(f"[{name}] expected rules that leave a path in every block, got none in block {b} that {text} "
                                     f"leaves{others}; drop or change it")  # fmt: skip
                before.append(text)


def read_rule(space: Space, text: str, fix: bool) -> Rule:
    """Read one rule of a space, as `Rules` says.

    Raises:
        InputError: another form, or nothing in the space that it names.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(
            f"[rules] expected a rule like 'block 2 layer 1: kernel=5', 'block 2: cell 1' or 'kernel=7', got {text!r}"
        )
    block, layer = (None if part is None else int(part) for part in match.groups()[:2])
    numbered, field = _NUMBERED.fullmatch(match[3]), _FIELD.fullmatch(match[3])
    if numbered:
        what: tuple[Any, ...] = numbered[1].lower(), int(numbered[2])
    else:
        what = ("field", field[1], field[2]) if field else ("word", match[3].lower())
    rule = Rule(text, fix, block, layer, what)
    _check(space, rule)
    return rule


def _check(space: Space, rule: Rule) -> None:
    """Raise InputError where the space has nothing that a rule names."""

    def refuse(wanted: str) -> InputError:
        return InputError(f"[rules] expected {wanted} in {space}, got {rule.text!r}; all numbers count from 0")

    if rule.block is not None and rule.block >= len(space):
        raise refuse(f"a block from 0 to {len(space) - 1}")
    blocks = space.blocks if rule.block is None else [space.blocks[rule.block]]
    if rule.what[0] == "cell":
        most = max(map(len, blocks)) - 1
        if rule.what[1] > most or rule.layer is not None:
            raise refuse(f"a cell from 0 to {most}, without a layer,")
        return
    deepest = max(len(cell.layers) for cells in blocks for cell in cells) - 1
    if rule.layer is not None and rule.layer > deepest:
        raise refuse(f"a layer from 0 to {deepest}")
    layers = [layer for cells in blocks for cell in cells for number, layer in enumerate(cell.layers)
              if rule.layer in (None, number)]  # fmt: skip
    if any(rule.hits(layer).any() for layer in layers):
        return
    if rule.what[0] == "candidate":
        raise refuse(f"a candidate from 0 to {max(map(len, layers)) - 1}")
    candidates = [each for layer in layers for each in layer]
    names = {name for each in candidates for name in _fields(each)}
    if rule.what[0] == "field" and rule.what[1] in names:
        values = {f"{value}" for each in candidates for name, value in _fields(each).items() if name == rule.what[1]}
        raise refuse(f"{rule.what[1]} to be one of {', '.join(sorted(values))}")
    words = sorted({word for each in candidates for word in _words(each)})
    raise refuse(f"cell C, candidate K, FIELD=VALUE of the fields {', '.join(sorted(names)) or '(none)'}, or one of "
                 f"{', '.join(words) or '(no labels)'}")  # fmt: skip


def _fields(candidate: Any) -> dict[str, Any]:
    """Return the fields of a candidate's description by name; none where it is no dataclass."""
    return (
        {field.name: getattr(candidate, field.name) for field in fields(candidate)} if is_dataclass(candidate) else {}
    )


def _words(candidate: Any) -> set[str]:
    """Return the texts that name a candidate, in small letters."""
    texts = [
        value for value in (*_fields(candidate).values(), getattr(candidate, "label", None)) if isinstance(value, str)
    ]
    return {form for text in texts for form in (text.lower(), text.lower().removesuffix(_SUFFIX))}


def _alike(value: Any, text: str) -> bool:
    """Whether a field has the value that a text says."""
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value).lower() == text.lower()
