"""Isomorphism classes of NAS-Bench-201's cells: cells that compute one function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def isomorphism_strings(cells: Iterable[Sequence[str]]) -> list[str]:
    """Return the string of each cell's isomorphism class, as NAS-Bench-201 writes it; 6,466 classes among 15,625 cells.

    cells: six operations each, for the edges 0>1, 0>2, 1>2, 0>3, 1>3, 2>3. A node is the sum of its inputs in sorted
    order: `skip_connect` keeps its input's string, `none` and operations on nothing give `#`.
    """
    return [_node(_node_inputs(cell)) for cell in cells]


def _node_inputs(cell: Sequence[str]) -> list[str]:
    first = _node([_edge("0", cell[0])])
    second = _node([_edge("0", cell[1]), _edge(first, cell[2])])
    return [_edge("0", cell[3]), _edge(first, cell[4]), _edge(second, cell[5])]


def _node(inputs: Sequence[str]) -> str:
    return "+".join(sorted(inputs))


def _edge(source: str, op: str) -> str:
    if op == "skip_connect":
        return source
    # NAS-Bench-201 treats an input as nothing only where its whole string is `#`.
    if op == "none" or source == "#":
        return "#"
    return f"({source})@{op}"
