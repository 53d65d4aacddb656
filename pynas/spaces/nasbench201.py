"""NAS-Bench-201: one cell of four nodes, an operation on each of its six edges, repeated in three stages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell
from pynas.spaces.space import Notation, Space

NASBENCH201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# (source, target) of the edges, in the order of the benchmark's strings.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True)
class EdgeSpec:
    """An operation on the edge from one node of the cell to another."""

    op: str
    source: int
    target: int

    @property
    def label(self) -> str:
        """The operation and the nodes that it connects."""
        return f"{self.op} {self.source}→{self.target}"


@dataclass(frozen=True)
class CellNetSpec:
    """The network around the cell: a 3x3 convolution, then `n` cells per stage; residual blocks of stride 2 between stages."""

    channels: tuple[int, ...]
    n: int


def nasbench201(
    name: str = "nasbench201",
    n: int = 5,
    channels: Sequence[int] = (16, 32, 64),
    ops: Sequence[str] = NASBENCH201_OPS,
    image_size: int = 32,
) -> Space:
    """The space of NAS-Bench-201 (Dong and Yang, ICLR 2020): 5^6 = 15,625 cells, written as the benchmark writes them.

    n: cells per stage. ops: operations of an edge; candidates have this order. The space has one block, whose six layers
    are the edges 0>1, 0>2, 1>2, 0>3, 1>3, 2>3; every cell of the network has the same operations.

    Raises:
        InputError: unknown or repeated operations, no cell, or no channels.
    """
    unknown = [op for op in ops if op not in NASBENCH201_OPS]
    if unknown or not ops or len(set(ops)) < len(ops):
        raise InputError(
            f"[nasbench201] expected different operations of {', '.join(NASBENCH201_OPS)}, got {list(ops)}"
        )
    if n < 1 or not channels or min(channels) < 1:
        raise InputError(
            f"[nasbench201] expected at least one cell and channel per stage, got {n} and {list(channels)}"
        )
    edges = tuple(tuple(EdgeSpec(op, source, target) for op in ops) for source, target in EDGES)
    notation = Notation(lambda architecture: _write(architecture, ops), lambda text: _read(text, ops))
    return Space(name, ((Cell(edges),),), CellNetSpec(tuple(channels), n), None, image_size, notation,
                 kind="nasbench201")  # fmt: skip


def nasbench201_3() -> Space:
    """The 3^6 = 729 cells without `none` and `skip_connect`, which Pi-NAS ranks (section 4.3; the paper prints 792)."""
    return nasbench201("nasbench201-3", ops=NASBENCH201_OPS[2:])


def nasbench201_mini() -> Space:
    """The 729 cells of `nasbench201_3`, one per stage at 8, 16 and 32 channels, for 16x16 images; two CPU cores train it."""
    return nasbench201("nasbench201-mini", n=1, channels=(8, 16, 32), ops=NASBENCH201_OPS[2:], image_size=16)


def _write(architecture: Architecture, ops: Sequence[str]) -> str:
    names = [ops[candidate] for candidate in architecture[0].path]
    nodes: dict[int, str] = {}
    for (source, target), op in zip(EDGES, names):
        nodes[target] = nodes.get(target, "|") + f"{op}~{source}|"
    return "+".join(nodes.values())


def _read(text: str, ops: Sequence[str]) -> Architecture | None:
    if "~" not in text:
        return None
    edges = re.findall(r"([a-z0-9_]+)~(\d)\|", text)
    names = [op for op, _ in edges]
    if len(edges) != len(EDGES) or any(op not in ops for op in names):
        raise InputError(f"[nasbench201] expected six edges like 'nor_conv_3x3~0' with {', '.join(ops)}, got {text!r}")
    architecture = Architecture.of([(0, [ops.index(op) for op in names])])
    if _write(architecture, ops) != text:
        raise InputError(f"[nasbench201] expected a cell like {_write(architecture, ops)!r}, got {text!r}")
    return architecture
