"""Supernets whose candidates are built one by one from their descriptions, as those of the MBConv spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pynas.nn import Head, MBConv, conv_bn, stem
from pynas.spaces import Space
from pynas.spaces.mbconv import HeadSpec, MBConvSpec, StemSpec
from pynas.supernets.supernet import Supernet


def build_candidate(spec: MBConvSpec) -> nn.Module:
    """Module of a candidate's description."""
    block = MBConv(spec.in_channels, spec.out_channels, spec.kernel, spec.expand, spec.stride, spec.se)
    if spec.exit_channels is None:
        return block
    return nn.Sequential(block, conv_bn(spec.out_channels, spec.exit_channels, activation=None))


def build_stem(spec: StemSpec | None) -> nn.Module | None:
    """Module before the blocks."""
    return None if spec is None else stem(spec.channels, spec.stride, spec.mb1_channels, spec.se)


def build_head(spec: HeadSpec | None, num_classes: int) -> nn.Module | None:
    """Module after the blocks."""
    if spec is None:
        return None
    return Head(spec.in_channels, spec.channels, num_classes, spec.mb6_channels, se_ratio=spec.se)


def from_candidates(
    space: Space, num_classes: int, candidate: Callable[[Any], nn.Module] = build_candidate
) -> Supernet:
    """Build a supernet candidate by candidate.

    candidate: called with the description of a candidate, returns its module. The space's stem and head, if any, are a
        `StemSpec` and a `HeadSpec` of `pynas.spaces.mbconv`.
    """
    blocks = [
        [[[candidate(spec) for spec in layer] for layer in cell.layers] for cell in cells] for cells in space.blocks
    ]
    return Supernet(blocks, build_stem(space.stem), build_head(space.head, num_classes), space)
