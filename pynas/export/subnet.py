"""One architecture out of a supernet, as a plain nn.Module."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import nn

from pynas.spaces import Architecture, Space
from pynas.supernets import Supernet, build_candidate, supernet
from pynas.supernets.build import META_BUILDERS, build_head, build_stem, has_own_builder
from pynas.supernets.shapes import alone, output_shape


def subnet(
    net: Supernet, architecture: Architecture | str, image_shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """A network of its own with a copy of the weights: the same output as `net(images, architecture)`.

    The result is an nn.Sequential of stem, block_1, ..., block_N, head (or what the net's own `extract` gives); nothing
    in it refers to the supernet. image_shape: only needed where weights are shared and the space's image size is not meant.

    Raises:
        InputError: an architecture outside the space.
    """
    if isinstance(architecture, str):
        architecture = net.space.parse(architecture)
    net.space.check(architecture)
    if hasattr(net, "extract"):
        return net.extract(architecture).train(net.training)  # type: ignore[operator]
    side = net.space.image_size
    shape = image_shape or (3, side, side)
    blocks = [net.path(b, choice) for b, choice in enumerate(architecture)]
    if any(hasattr(module, "extract") for module in (net.stem, *chain(*blocks), net.head)):
        parts = _Taken(shape)
        stem = parts.take_any(net.stem)
        blocks = [[parts.take(module) for module in layers] for layers in blocks]
        return copy.deepcopy(_sequential(stem, blocks, parts.take_any(net.head))).train(net.training)
    return copy.deepcopy(_sequential(net.stem, blocks, net.head)).train(net.training)


class _Taken:
    """Takes modules out one after the other; each sees the shape that the one before it puts out."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def take_any(self, module: nn.Module | None) -> nn.Module | None:
        """The same, or None where there is no module."""
        return None if module is None else self.take(module)

    def take(self, module: nn.Module) -> nn.Module:
        """The module without what it shares with others."""
        taken = alone(module, self._shape)
        self._shape = output_shape(taken, self._shape)
        return taken


def standalone(
    space: Space, architecture: Architecture | str, num_classes: int, image_shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """The same network with fresh weights (torch's generator), for training from scratch.

    Raises:
        InputError: an architecture outside the space, or a space without builders.
    """
    if isinstance(architecture, str):
        architecture = space.parse(architecture)
    space.check(architecture)
    if has_own_builder(space):
        model = _from_supernet(space, architecture, num_classes, image_shape)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
        return model
    blocks = [
        [build_candidate(layer[c]) for layer, c in zip(space.blocks[b][choice.cell].layers, choice.path)]
        for b, choice in enumerate(architecture)
    ]
    return _sequential(build_stem(space.stem), blocks, build_head(space.head, num_classes))


def _from_supernet(
    space: Space, architecture: Architecture, num_classes: int, image_shape: tuple[int, int, int] | None
) -> nn.Module:
    """A network out of a fresh supernet, which takes no memory for the rest of it where the space allows that."""
    if type(space.blocks[0][0].layers[0][0]) not in META_BUILDERS:
        return subnet(supernet(space, num_classes), architecture, image_shape)
    with torch.device("meta"):
        model = subnet(supernet(space, num_classes), architecture, image_shape)
    return model.to_empty(device=torch.get_default_device())


def _sequential(stem: nn.Module | None, blocks: Sequence[Sequence[nn.Module]], head: nn.Module | None) -> nn.Sequential:
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
