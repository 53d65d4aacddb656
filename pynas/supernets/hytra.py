"""The supernet of HyTra: the cells of a block share their layers, whatever scale they start from."""

from __future__ import annotations

from torch import nn

from pynas.nn.hytra import Bottleneck, Framed, image_stem, pooled_classifier, stand_in
from pynas.spaces import Space
from pynas.spaces.hytra import HyTraSpec, StandInSpec
from pynas.supernets.supernet import Supernet


def hytra_supernet(space: Space, num_classes: int) -> Supernet:
    """Build the supernet; the cells of a block hold equal modules, which tell the scale from the width of their input.

    The candidates of the first layer share the stand-ins before them, and those of the last layer the stand-ins after.
    """
    stand_ins: dict[tuple[str, StandInSpec], nn.Module] = {}

    def shared(place: str, spec: StandInSpec) -> nn.Module:
        if (place, spec) not in stand_ins:
            stand_ins[place, spec] = stand_in(
                spec.in_channels, spec.out_channels, spec.stride, spec.groups, spec.activation
            )
        return stand_ins[place, spec]

    def candidate(spec: HyTraSpec) -> nn.Module:
        layer = Bottleneck(spec.operation, spec.inputs, spec.channels, spec.head_channels, spec.se, spec.activation)
        if not (spec.before or spec.after):
            return layer
        return Framed([shared("before", s) for s in spec.before], layer, [shared("after", s) for s in spec.after])

    blocks = []
    for cells in space.blocks:
        layers = [[candidate(spec) for spec in layer] for layer in cells[0].layers]
        blocks.append([layers for _ in cells])
    described = space.stem
    stem = image_stem(described.channels, described.kernel, described.pool, described.activation)
    return Supernet(blocks, stem, pooled_classifier(space.head.in_channels, num_classes), space)
