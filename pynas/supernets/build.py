"""From a space to a supernet: one builder per kind of candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.nn import Head, MBConv, conv_bn, stem
from pynas.spaces import Space, get
from pynas.spaces.autoformer import TransformerSpec
from pynas.spaces.bignas import ResolutionSpec
from pynas.spaces.hytra import HyTraSpec
from pynas.spaces.mbconv import HeadSpec, MBConvSpec, StemSpec
from pynas.spaces.nasbench201 import EdgeSpec
from pynas.spaces.nats_size import WidthSpec
from pynas.spaces.splitattention import SplitAttentionSpec
from pynas.spaces.vit_dna import ViTSpec
from pynas.supernets.autoformer import AutoFormer
from pynas.supernets.bignas import BigNAS
from pynas.supernets.hytra import hytra_supernet
from pynas.supernets.nasbench201 import CellNet
from pynas.supernets.nats_size import nats_size
from pynas.supernets.splitattention import split_attention_net
from pynas.supernets.supernet import Supernet
from pynas.supernets.vit_dna import vit_net


def _mbconv(spec: MBConvSpec) -> nn.Module:
    block = MBConv(spec.in_channels, spec.out_channels, spec.kernel, spec.expand, spec.stride)
    if spec.exit_channels is None:
        return block
    return nn.Sequential(block, conv_bn(spec.out_channels, spec.exit_channels, activation=False))


# Candidate descriptions to modules; a space with candidates of another kind adds its builder here.
BUILDERS: dict[type, Callable[[Any], nn.Module]] = {MBConvSpec: _mbconv}


# Whole supernets of spaces whose candidates share weights, by the type of their first candidate's description:
# called with the space and the number of classes.
NET_BUILDERS: dict[type, Callable[[Space, int], Any]] = {
    WidthSpec: nats_size,
    TransformerSpec: AutoFormer,
    ResolutionSpec: BigNAS,
    EdgeSpec: CellNet,
    SplitAttentionSpec: split_attention_net,
    HyTraSpec: hytra_supernet,
    ViTSpec: vit_net,
}

# Those of them that hold torch's own layers alone, whose reset_parameters gives all values: such a supernet can be built
# on the meta device, and a network taken out of it before anything takes memory.
META_BUILDERS: set[type] = {HyTraSpec}


def has_own_builder(space: Space) -> bool:
    """Whether a space's supernet is built as a whole."""
    return type(space.blocks[0][0].layers[0][0]) in NET_BUILDERS


def build_candidate(spec: Any) -> nn.Module:
    """The module that a candidate's description stands for.

    Raises:
        InputError: a description of no known kind.
    """
    if type(spec) not in BUILDERS:
        raise InputError(f"[supernet] expected a candidate that has a builder, got {spec!r}; add one to BUILDERS")
    return BUILDERS[type(spec)](spec)


def supernet(space: str | Space, num_classes: int = 1000) -> Supernet:
    """Build the supernet of a space, by name or description, with fresh weights from torch's generator.

    Raises:
        InputError: an unknown name, or a space without builders.
    """
    if isinstance(space, str):
        space = get(space)
    if num_classes < 1:
        raise InputError(f"[supernet] expected at least one class, got {num_classes}")
    if has_own_builder(space):
        return NET_BUILDERS[type(space.blocks[0][0].layers[0][0])](space, num_classes)
    blocks = [
        [[[build_candidate(spec) for spec in layer] for layer in cell.layers] for cell in cells]
        for cells in space.blocks
    ]
    return Supernet(blocks, build_stem(space.stem), build_head(space.head, num_classes), space)


def build_stem(spec: StemSpec | None) -> nn.Module | None:
    """The part before the blocks."""
    return None if spec is None else stem(spec.channels, spec.stride, spec.mb1_channels)


def build_head(spec: HeadSpec | None, num_classes: int) -> nn.Module | None:
    """The part after the blocks."""
    return None if spec is None else Head(spec.in_channels, spec.channels, num_classes, spec.mb6_channels)
