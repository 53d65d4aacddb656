"""Compound scaling of a found architecture (EfficientNet's rule), and the scaled teacher (DNA, eq. 9)."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.layers import make_divisible
from torch import nn

from pynas.errors import InputError
from pynas.spaces import Architecture, Cell, Space, get
from pynas.spaces.mbconv import HeadSpec, MBConvSpec, StemSpec
from pynas.supernets.mbconv import build_candidate, build_head, build_stem
from pynas.teachers import Teacher
from pynas.tensor_files import read_tensors, write_tensors

_KIND = "pynas.scaled_teacher"


@dataclass(frozen=True)
class Scaling:
    """Factors of depth, width and resolution."""

    depth: float
    width: float
    resolution: float

    def layers(self, count: int) -> int:
        """Scaled number of layers of a block, rounded up."""
        return math.ceil(self.depth * count - 1e-9)

    def repeats(self, groups: Sequence[int]) -> list[int]:
        """Scaled number of layers of each group of equal layers of a block, by the share that each has of the layers left.

        The groups are gone through from the last one to the first, as in EfficientNet's public code.
        """
        left, more, repeats = sum(groups), self.layers(sum(groups)), []
        for count in reversed(groups):
            repeats.append(max(1, round(count / left * more)))
            left, more = left - count, more - repeats[-1]
        return repeats[::-1]

    def channels(self, count: int) -> int:
        """Scaled width, rounded to a multiple of 8 that is at least nine tenths of it; never less than `count`."""
        return max(count, make_divisible(count * self.width, 8, round_limit=0.9))

    def side(self, pixels: int) -> int:
        """Scaled side of the images, rounded."""
        return round(self.resolution * pixels)


# Factors of depth and width and the side of the images of EfficientNet-B0 to B7 (arXiv:1905.11946, public code).
EFFICIENTNETS = {"b0": (1.0, 1.0, 224), "b1": (1.1, 1.0, 240), "b2": (1.2, 1.1, 260), "b3": (1.4, 1.2, 300),
                 "b4": (1.8, 1.4, 380), "b5": (2.2, 1.6, 456), "b6": (2.6, 1.8, 528), "b7": (3.1, 2.0, 600)}  # fmt: skip


def compound_scaling(phi: float | str) -> Scaling:
    """EfficientNet's compound rule: depth 1.2^phi, width 1.1^phi, resolution 1.15^phi (about 2^phi times the MAdds).

    phi: a number, or "b0" to "b7": the rounded factors of that EfficientNet, which DNA's table 4 has.

    Raises:
        InputError: a phi below 0, or another text.
    """
    if phi in EFFICIENTNETS:
        depth, width, side = EFFICIENTNETS[str(phi)]
        return Scaling(depth, width, side / 224)
    try:
        exponent = float(phi)
    except ValueError:
        exponent = math.nan
    if not 0 <= exponent < math.inf:
        raise InputError(f"[scaling] expected phi of at least 0, or b0 to b7, got {phi!r}")
    return Scaling(1.2**exponent, 1.1**exponent, 1.15**exponent)


def scaled_space(space: Space, architecture: Architecture, phi: float | str) -> Space:
    """Return a space of one architecture: the given one, scaled. phi 0 leaves it as it is.

    A block gets `depth` times its layers, by repeating some (`Scaling.repeats`). All widths, including those of the stem and
    the head, are multiplied by `width`, and `image_size` by `resolution`.

    phi: see `compound_scaling`.

    Raises:
        InputError: an architecture outside the space, or a space without a rule.
    """
    space.check(architecture)
    if space.kind not in SCALERS:
        raise InputError(f"[scaling] expected a space of kind {', '.join(SCALERS)}, got {space.name} of {space.kind}")  # fmt: skip
    (scale, scale_stem, scale_head), scaling = SCALERS[space.kind], compound_scaling(phi)
    blocks = []
    for cells, choice in zip(space.blocks, architecture):
        layers = scale([layer[c] for layer, c in zip(cells[choice.cell].layers, choice.path)], scaling)
        blocks.append((Cell(tuple((layer,) for layer in layers)),))
    stem = None if space.stem is None else scale_stem(space.stem, scaling)
    head = None if space.head is None else scale_head(space.head, scaling)
    return Space(f"{space.name}-scaled", tuple(blocks), stem, head, scaling.side(space.image_size), kind=space.kind)


def _mbconv(layers: Sequence[MBConvSpec], scaling: Scaling) -> list[MBConvSpec]:
    first, last = layers[0], layers[-1]
    # Layers of a block differ in kernel and expansion, and the first in input and stride, the last in its exit.
    plain = [replace(layer, in_channels=layer.out_channels, stride=1, exit_channels=None) for layer in layers]
    groups = [list(group) for _, group in itertools.groupby(plain)]
    body = [
        group[0]
        for group, count in zip(groups, scaling.repeats([len(group) for group in groups]))
        for _ in range(count)
    ]
    body[0] = replace(body[0], in_channels=first.in_channels, stride=first.stride)
    body[-1] = replace(body[-1], exit_channels=last.exit_channels)
    return [
        replace(
            layer,
            in_channels=scaling.channels(layer.in_channels),
            out_channels=scaling.channels(layer.out_channels),
            exit_channels=layer.exit_channels and scaling.channels(layer.exit_channels),
        )
        for layer in body
    ]


def _stem(stem: StemSpec, scaling: Scaling) -> StemSpec:
    inner = stem.mb1_channels and scaling.channels(stem.mb1_channels)
    return replace(stem, channels=scaling.channels(stem.channels), mb1_channels=inner)


def _head(head: HeadSpec, scaling: Scaling) -> HeadSpec:
    inner = head.mb6_channels and scaling.channels(head.mb6_channels)
    return replace(head, in_channels=scaling.channels(head.in_channels), channels=scaling.channels(head.channels),
                   mb6_channels=inner)  # fmt: skip


# Functions that scale the chosen layers of a block, a stem and a head, by the kind of space.
SCALERS: dict[str, tuple[Callable[[Any, Scaling], Any], ...]] = {"mbconv": (_mbconv, _stem, _head)}


def scaled_teacher(space: Space, architecture: Architecture, phi: float | str, num_classes: int) -> Teacher:
    """Return the scaled network with fresh weights (torch's generator) as a teacher, tapped after every block.

    Its modules are stem, block_1, ..., head. It gets images of the students' size, not of the scaled resolution: its
    features must have the size of the blocks that they supervise (the paper tests its teachers so, table 11).
    """
    scaled = scaled_space(space, architecture, phi)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    stem, head = build_stem(scaled.stem), build_head(scaled.head, num_classes)
    if stem is not None:
        parts["stem"] = stem
    taps = [f"block_{number}" for number in range(1, len(scaled) + 1)]
    for tap, (cell,) in zip(taps, scaled.blocks):
        parts[tap] = nn.Sequential(*(build_candidate(layer[0]) for layer in cell.layers))
    if head is not None:
        parts["head"] = head
    metadata = {"space": space.name, "architecture": space.format(architecture), "phi": phi, "num_classes": num_classes}
    return Teacher(nn.Sequential(parts), taps, metadata=metadata)


def save_scaled(path: str | Path, teacher: Teacher, **metadata: Any) -> None:
    """Write a scaled teacher, atomically, with its architecture, its scaling and a digest of its weights."""
    write_tensors(path, _KIND, teacher.module.state_dict(), **teacher.metadata, **metadata)


def load_scaled(path: str | Path) -> Teacher:
    """Read a teacher from a file of `save_scaled`.

    Raises:
        InputError: missing, damaged, of another kind or version, or of a space that is not one of pynas's own.
    """
    content = read_tensors(path, _KIND)
    metadata: Mapping[str, Any] = content.metadata
    space = get(metadata["space"])
    teacher = scaled_teacher(space, space.parse(metadata["architecture"]), metadata["phi"], metadata["num_classes"])
    teacher.module.load_state_dict(dict(content.tensors))
    teacher.metadata = dict(metadata)
    return teacher
