"""The supernet of the ViT spaces: the candidates of a block share the weights of its widest and deepest one."""

from __future__ import annotations

from torch import nn

from pynas.nn.slim_vit import SlimViT, SlimViTCandidate, ViTHead
from pynas.spaces import Space
from pynas.spaces.vit_dna import ViTSpec
from pynas.supernets.supernet import Supernet


def vit_net(space: Space, num_classes: int) -> Supernet:
    """Build the supernet with fresh weights from torch's generator."""
    blocks = [[[_candidates(cell.layers[0])] for cell in cells] for cells in space.blocks]
    return Supernet(blocks, None, ViTHead(space.head.in_channels, num_classes), space)


def _candidates(specs: tuple[ViTSpec, ...]) -> list[nn.Module]:
    first, sizes = specs[0], [_hidden(spec) for spec in specs]
    weights = SlimViT(
        (first.in_channels, first.in_side),
        first.side,
        (first.out_channels, first.out_side),
        max(spec.dim for spec in specs),
        max(sizes),
        max(spec.depth for spec in specs),
        first.head_dim,
    )
    return [SlimViTCandidate(weights, spec.dim, hidden, spec.depth) for spec, hidden in zip(specs, sizes)]


def _hidden(spec: ViTSpec) -> int:
    return round(spec.dim * spec.mlp_ratio)
