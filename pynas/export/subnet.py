"""One architecture out of a supernet, as a plain nn.Module."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn

from pynas.spaces import Architecture, Space
from pynas.supernets import Supernet, build_candidate
from pynas.supernets.build import build_head, build_stem


def subnet(net: Supernet, architecture: Architecture | str) -> nn.Sequential:
    """A network of its own with a copy of the weights: the same output as `net(images, architecture)`.

    The result is an nn.Sequential of stem, block_1, ..., block_N, head; nothing in it refers to the supernet.

    Raises:
        InputError: an architecture outside the space.
    """
    if isinstance(architecture, str):
        architecture = net.space.parse(architecture)
    net.space.check(architecture)
    blocks = [net.path(b, choice) for b, choice in enumerate(architecture)]
    return copy.deepcopy(_sequential(net.stem, blocks, net.head)).train(net.training)


def standalone(space: Space, architecture: Architecture | str, num_classes: int) -> nn.Sequential:
    """The same network with fresh weights (torch's generator), built without a supernet, for training from scratch.

    Raises:
        InputError: an architecture outside the space, or a space without builders.
    """
    if isinstance(architecture, str):
        architecture = space.parse(architecture)
    space.check(architecture)
    blocks = [
        [build_candidate(layer[c]) for layer, c in zip(space.blocks[b][choice.cell].layers, choice.path)]
        for b, choice in enumerate(architecture)
    ]
    return _sequential(build_stem(space.stem), blocks, build_head(space.head, num_classes))


def _sequential(stem: nn.Module | None, blocks: list[list[nn.Module]], head: nn.Module | None) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if stem is not None:
        parts["stem"] = stem
    for number, layers in enumerate(blocks, 1):
        parts[f"block_{number}"] = nn.Sequential(*layers)
    if head is not None:
        parts["head"] = head
    return nn.Sequential(parts)


def recalibrate(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Re-estimate batch-norm statistics on training batches: those of a supernet are averages over many paths."""
    device = next(model.parameters()).device
    torch.optim.swa_utils.update_bn(((images, labels) for images, labels in batches), model, device)
