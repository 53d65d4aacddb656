"""Compound scaling of a found architecture (EfficientNet's rule), and the scaled teacher (DNA, eq. 9)."""

from __future__ import annotations

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

    def channels(self, count: int) -> int:
        """Scaled width, rounded to a multiple of 8 that is at least nine tenths of it; never less than `count`."""
        return max(count, make_divisible(count * self.width, 8, round_limit=0.9))

    def side(self, pixels: int) -> int:
        """Scaled side of the images, rounded."""
        return round(self.resolution * pixels)


def compound_scaling(phi: float) -> Scaling:
    """EfficientNet's compound rule: depth 1.2^phi, width 1.1^phi, resolution 1.15^phi (about 2^phi times the MAdds).

    Raises:
        InputError: a phi below 0.
    """
    if not 0 <= phi < math.inf:
        raise InputError(f"[scaling] expected phi of at least 0, got {phi}")
    return Scaling(1.2**phi, 1.1**phi, 1.15**phi)


def scaled_space(space: Space, architecture: Architecture, phi: float) -> Space:
    """Return a space of one architecture: the given one, scaled. phi 0 leaves it as it is.

    A block gets `depth` times its layers, by repeating its last one. All widths, including those of the stem and the head,
    are multiplied by `width`, and `image_size` by `resolution`.

    Raises:
        InputError: an architecture outside the space, or a space without a rule.
    """
    space.check(architecture)
    if space.kind not in SCALERS:
        raise InputError(f"[scaling] expected a space of kind {', '.join(SCALERS)}, got {space.name} of {space.kind}; "
                         "use generations=1")  # fmt: skip
    (scale, scale_stem, scale_head), scaling = SCALERS[space.kind], compound_scaling(phi)
    blocks = []
    for cells, choice in zip(space.blocks, architecture):
        layers = scale([layer[c] for layer, c in zip(cells[choice.cell].layers, choice.path)], scaling)
        blocks.append((Cell(tuple((layer,) for layer in layers)),))
    stem = None if space.stem is None else scale_stem(space.stem, scaling)
    head = None if space.head is None else scale_head(space.head, scaling)
    return Space(f"{space.name}-scaled", tuple(blocks), stem, head, scaling.side(space.image_size), kind=space.kind)


def _mbconv(layers: Sequence[MBConvSpec], scaling: Scaling) -> list[MBConvSpec]:
    last = layers[-1]
    body = [*layers[:-1], replace(last, exit_channels=None)]
    more = scaling.layers(len(body)) - len(body)
    body += [replace(body[-1], in_channels=last.out_channels, stride=1)] * more
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


def scaled_teacher(space: Space, architecture: Architecture, phi: float, num_classes: int) -> Teacher:
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
