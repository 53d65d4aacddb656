"""One architecture out of a supernet, as a plain nn.Module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from pynas.copies import unwrapped
from pynas.export.image_size import resize_positions
from pynas.spaces import Architecture, Cell, Space
from pynas.supernets import Net, device_of, kind_of

Shape = tuple[int, int, int]


def subnet(net: Net, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Module:
    """One architecture as a network of its own with a copy of the weights; its output is that of `net(images, architecture)`.

    image_shape: (3, H, W) of the network's images; None for squares of the space's image size.

    Raises:
        InputError: an architecture outside the space.
    """
    return unwrapped(net).extract(architecture, image_shape)


def standalone(
    space: Space, architecture: Architecture | str, num_classes: int, image_shape: Shape | None = None
) -> nn.Module:
    """One architecture as a network with fresh weights (torch's generator), for training from scratch.

    image_shape: (3, H, W) of the network's images; None for squares of the space's image size.

    Raises:
        InputError: an architecture outside the space, a space without a builder, or a size that the network's patches do not
            divide.
    """
    model = _standalone(space, architecture, num_classes)
    if image_shape is not None:
        resize_positions(model, space.image_size, image_shape[1])
    return model


def _standalone(space: Space, architecture: Architecture | str, num_classes: int) -> nn.Module:
    architecture, kind = space.resolve(architecture), kind_of(space)
    if kind.own_weights:
        space, architecture = _only(space, architecture)
        return kind.build(space, num_classes).extract(architecture)
    if kind.on_meta:
        with torch.device("meta"):
            model = kind.build(space, num_classes).extract(architecture)
        model = model.to_empty(device=torch.get_default_device())
    else:
        model = kind.build(space, num_classes).extract(architecture)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return model


def _only(space: Space, architecture: Architecture) -> tuple[Space, Architecture]:
    """Space of one architecture, and its name there."""
    specs = [
        [layer[c] for layer, c in zip(space.blocks[b][choice.cell].layers, choice.path)]
        for b, choice in enumerate(architecture)
    ]
    blocks = tuple((Cell(tuple((spec,) for spec in layers)),) for layers in specs)
    return replace(space, blocks=blocks, notation=None), Architecture.of((0, [0] * len(layers)) for layers in specs)


def recalibrate(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Re-estimate batch-norm statistics on training batches: those of a supernet are averages over many paths."""
    device = device_of(model)
    torch.optim.swa_utils.update_bn(((images, labels) for images, labels in batches), model, device)
