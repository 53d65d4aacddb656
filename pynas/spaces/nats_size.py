"""NATS-Bench's size space (Dong et al., TPAMI 2021): the width of each of five layers; 32,768 networks for 32x32 images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell, connect_layers
from pynas.spaces.space import Notation, Space

WIDTHS = tuple(range(8, 65, 8))
LAYERS = 5


@dataclass(frozen=True)
class WidthSpec:
    """A width of a layer of the network; layers count from 0, and layers 1 and 3 halve the resolution."""

    layer: int
    channels: int

    @property
    def label(self) -> str:
        """The width."""
        return str(self.channels)


def nats_size(name: str = "nats-size", blocks: Sequence[int] = (2, 2, 1), widths: Sequence[int] = WIDTHS) -> Space:
    """NATS-Bench's size space, divided into blocks of layers.

    blocks: number of layers of each block; BossNAS takes (2, 2, 1) for CIFAR-10 and (2, 1, 2) for CIFAR-100.

    Every block but the first has one cell for each width of its input, in the order of `widths`. A network is written as
    its widths, `64:40:48:64:56`.

    Raises:
        InputError: blocks that do not have five layers in all.
    """
    blocks, widths, built, first = tuple(blocks), tuple(widths), [], 0
    if sum(blocks) != LAYERS or min(blocks) < 1:
        raise InputError(f"[{name}] expected blocks of {LAYERS} layers in all, got {blocks}")
    for count in blocks:
        layers = tuple(tuple(WidthSpec(n, width) for width in widths) for n in range(first, first + count))
        starts = widths if first else (None,)
        built.append(tuple(Cell(layers, start=start, leaves=partial(_last_width, widths)) for start in starts))
        first += count
    notation = Notation(partial(_write, widths), partial(_read, name, tuple(built), widths))
    return Space(name, tuple(built), image_size=32, notation=notation, kind="nats-size")


def nats_size_cifar100() -> Space:
    """NATS-Bench's size space in the blocks that BossNAS uses for CIFAR-100."""
    return nats_size("nats-size-cifar100", (2, 1, 2))


def _last_width(widths: tuple[int, ...], path: tuple[int, ...]) -> int:
    return widths[path[-1]]


def _write(widths: tuple[int, ...], architecture: Architecture) -> str:
    return ":".join(str(widths[k]) for choice in architecture for k in choice.path)


def _read(name: str, blocks: Sequence[Sequence[Cell]], widths: tuple[int, ...], text: str) -> Architecture | None:
    if "|" in text or ":" not in text:
        return None
    parts = text.split(":")
    if len(parts) != LAYERS or any(part not in map(str, widths) for part in parts):
        raise InputError(
            f"[{name}] expected {LAYERS} widths of {', '.join(map(str, widths))} joined by ':', got {text!r}"
        )
    return connect_layers(blocks, tuple(widths.index(int(part)) for part in parts))
