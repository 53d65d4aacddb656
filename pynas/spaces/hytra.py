"""HyTra: hybrids of convolutions and attention with searchable down-sampling positions (BossNAS, section 4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture
from pynas.spaces.cell import Cell, Path, connect_layers
from pynas.spaces.space import Notation, Space

# A layer's candidates as (operation, scale), scales numbered from the finest: C@4, C@8, C@16, C@32, A@16, A@32.
CANDIDATES = (("conv", 0), ("conv", 1), ("conv", 2), ("conv", 3), ("attention", 2), ("attention", 3))
SCALES = 4
_DIGITS = {"attention": "0", "conv": "1"}


@dataclass(frozen=True)
class StandInSpec:
    """A 3x3 convolution, batch norm and activation that take the place of a scale without layers.

    The convolution is grouped, so that it costs as much as the 3x3 convolution inside a bottleneck, 9 (out_channels / 4)^2
    per position. The published MAdds of ViT-T, UnNAS-T and the random network agree with that.
    """

    in_channels: int
    out_channels: int
    stride: int
    activation: str = "relu"

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return 16 * self.in_channels // self.out_channels


@dataclass(frozen=True)
class HyTraSpec:
    """A ResConv ("conv") or ResAtt ("attention") at one scale.

    inputs: (channels, stride) of each kind of input: features of its own scale, or of the scale before.
    before, after: stand-ins for the scales that the first layer skips, and for those that remain after the last layer.
    se, activation: squeeze-excitation in ResConvs; "relu" or "silu".
    """

    operation: str
    scale: int
    inputs: tuple[tuple[int, int], ...]
    channels: int
    head_channels: int
    before: tuple[StandInSpec, ...] = ()
    after: tuple[StandInSpec, ...] = ()
    se: bool = False
    activation: str = "relu"

    @property
    def label(self) -> str:
        """Name in the paper, and number of the scale counted from the finest, `ResAtt 3`."""
        return f"{'ResConv' if self.operation == 'conv' else 'ResAtt'} {self.scale}"


@dataclass(frozen=True)
class StemSpec:
    """A strided convolution of the image, batch norm, activation, then a max-pool where `pool`."""

    channels: int
    kernel: int
    pool: bool
    activation: str = "relu"


@dataclass(frozen=True)
class HeadSpec:
    """Average pool and classifier."""

    in_channels: int


@dataclass(frozen=True)
class Trellis:
    """The sizes of a space: layers per block, channels and strides per scale.

    strides[s]: from the scale before to scale s; the stem comes before scale 0.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem_channels: int
    head_channels: int
    se: bool

    @property
    def activation(self) -> str:
        """SiLU with squeeze-excitation, as in BossNet-T; ReLU without."""
        return "silu" if self.se else "relu"

    @cached_property
    def stand_ins(self) -> tuple[StandInSpec, ...]:
        """Stand-in of every scale."""
        widths = (self.stem_channels, *self.channels)
        pairs = zip(widths, widths[1:], self.strides)
        return tuple(StandInSpec(first, second, stride, self.activation) for first, second, stride in pairs)

    def layer(self, number: int) -> tuple[HyTraSpec, ...]:
        """Candidates of a layer; `number` counts layers through the whole network."""
        return tuple(self._candidate(operation, scale, number) for operation, scale in CANDIDATES)

    def _candidate(self, operation: str, scale: int, number: int) -> HyTraSpec:
        first, last = number == 0, number == sum(self.layers) - 1
        own = ((self.channels[scale], 1),)
        finer = ((self.stand_ins[scale].in_channels, self.strides[scale]),)
        return HyTraSpec(
            operation,
            scale,
            finer if first else own if scale == 0 else own + finer,
            self.channels[scale],
            self.head_channels,
            self.stand_ins[:scale] if first else (),
            self.stand_ins[scale + 1 :] if last else (),
            self.se,
            self.activation,
        )


def allowed(path: Path, start: int | None = None) -> bool:
    """Whether every layer stays at the scale before it or goes one further; `start`: the scale before the first."""
    scales = [CANDIDATES[candidate][1] for candidate in path]
    if start is not None:
        scales = [start, *scales]
    return all(second - first in (0, 1) for first, second in itertools.pairwise(scales))


def end(path: Path) -> int:
    """The scale that a path ends at."""
    return CANDIDATES[path[-1]][1]


def _space(name: str, trellis: Trellis, stem: StemSpec, image_size: int) -> Space:
    blocks, number = [], 0
    for b, count in enumerate(trellis.layers):
        layers = tuple(trellis.layer(number + i) for i in range(count))
        starts: Sequence[int | None] = [None] if b == 0 else range(SCALES)
        blocks.append(tuple(Cell(layers, partial(allowed, start=start), start, end) for start in starts))
        number += count
    notation = Notation(write, partial(read, blocks=tuple(blocks)))
    return Space(name, tuple(blocks), stem, HeadSpec(trellis.channels[-1]), image_size, notation, kind="hytra")


def write(architecture: Architecture) -> str:
    """Write an architecture as `1|1|11101|000100000`: layers of each scale, finest first; 1 is a ResConv, 0 a ResAtt."""
    scales = [""] * SCALES
    for choice in architecture:
        for candidate in choice.path:
            operation, scale = CANDIDATES[candidate]
            scales[scale] += _DIGITS[operation]
    return "|".join(scales)


def read(text: str, blocks: Sequence[Sequence[Cell]]) -> Architecture | None:
    """Read the form that `write` gives; None for any other text.

    blocks: those of the space.
    """
    depth, scales = sum(len(cells[0].layers) for cells in blocks), text.split("|")
    if len(scales) != SCALES or sum(map(len, scales)) != depth or set(text) - set("01|"):
        return None
    operations = {digit: operation for operation, digit in _DIGITS.items()}
    candidates = [(operations[digit], scale) for scale, digits in enumerate(scales) for digit in digits]
    if any(candidate not in CANDIDATES for candidate in candidates):
        return None
    return connect_layers(blocks, tuple(map(CANDIDATES.index, candidates)))


def hytra(se: bool = False, last_stride: int = 2) -> Space:
    """BossNAS's hybrid space for 224x224 images: 16 layers in 4 blocks, 2,818,103 architectures.

    Scales 1/4, 1/8, 1/16 and 1/32 with 256 to 2048 channels; ResAtt at the last two, with heads of 64 channels.
    se: squeeze-excitation in ResConvs and SiLU. last_stride: 1 keeps the last scale at 1/16 (BossNet-T1).
    """
    if last_stride not in (1, 2):
        raise InputError(f"[hytra] expected a stride of 1 or 2 into the last scale, got {last_stride}")
    trellis = Trellis((4, 4, 4, 4), (256, 512, 1024, 2048), (1, 2, 2, last_stride), 64, 64, se)
    name = f"hytra{'-se' if se else ''}{'-s1' if last_stride == 1 else ''}"
    return _space(name, trellis, StemSpec(64, 7, True, trellis.activation), 224)


def hytra_mini() -> Space:
    """HyTra of 8 layers in 4 blocks for 32x32 images, which two CPU cores can train: 5,575 architectures.

    Scales 1/2 to 1/16 with 32, 64, 128 and 256 channels; heads of 16 channels.
    """
    trellis = Trellis((2, 2, 2, 2), (32, 64, 128, 256), (1, 2, 2, 2), 16, 16, False)
    return _space("hytra-mini", trellis, StemSpec(16, 3, False), 32)
