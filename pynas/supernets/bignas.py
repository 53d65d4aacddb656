"""BigNAS's supernet: one convolutional network at its largest; every architecture runs on slices of it."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.batch_norm import conv_bn
from pynas.nn.elastic import ElasticConvBN, ElasticHead, ElasticMBConv
from pynas.nn.mbconv import MBConv
from pynas.nn.network import Head
from pynas.spaces import Architecture, Choice, Space
from pynas.spaces.bignas import ElasticMBConvSpec, ElasticStemSpec, ResolutionSpec
from pynas.supernets.net import T, Visitor
from pynas.supernets.shapes import Shape, extracted
from pynas.supernets.walk import Walked


class Resize(nn.Module):
    """Bilinear resizing to a square of `side` pixels; images of that size pass unchanged."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: [B, 3, H, W] -> [B, 3, side, side]."""
        if images.shape[-2:] == (self.side, self.side):
            return images
        return F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)


class BigNAS(nn.Module):
    """Elastic resolution, stem, stages (channels, layers, kernel of each layer) and head with shared weights; a `Net`.

    Every candidate is a view of `weights`, the largest network's stem, stages and head.

    space: a space of `pynas.spaces.bignas`.

    Raises:
        InputError: fewer than one class.
    """

    stem = head = None

    def __init__(self, space: Space, num_classes: int = 1000):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"[supernet] expected at least one class, got {num_classes}")
        self.space = space
        width = space.blocks[1][-1].layers[0][-1].channels
        self.weights = nn.ModuleList([nn.ModuleList([conv_bn(3, width, 3, 2)])])
        for cells in space.blocks[2:-1]:
            stage = nn.ModuleList()
            for layer in max(cells, key=lambda cell: len(cell.layers)).layers:
                out = cells[-1].layers[0][0].channels
                stage.append(MBConv(width, out, layer[-1].kernel, layer[0].expand, layer[0].stride))
                width = out
            self.weights.append(stage)
        self.weights.append(nn.ModuleList([Head(width, space.blocks[-1][0].layers[0][-1].channels, num_classes)]))
        # By (block, layer, description), in a plain dictionary so that the weights are registered once.
        self._views: dict[tuple, nn.Module] = {}
        # Number of layers of the stages before each block.
        self._depths = [0, 0, *accumulate((len(cast(Any, stage)) for stage in self.weights[1:-1]), initial=0)]
        self.drop_path = 0.0

    @property
    def classifier(self) -> nn.Linear:
        """Last layer of the largest network."""
        return cast(Any, self.weights)[-1][0].classifier

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Candidates of a cell, `[layer][candidate]`."""
        specs = self.space.blocks[block][cell].layers
        return [[self._candidate(block, n, spec) for spec in layer] for n, layer in enumerate(specs)]

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Modules that a choice of a block runs, in their order."""
        specs = self.space.blocks[block][choice.cell].layers
        return [self._candidate(block, n, layer[c]) for n, (layer, c) in enumerate(zip(specs, choice.path))]

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """Input of the first block: the images, as the first block chooses their resolution."""
        return images

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: probability that the stages' last layer drops its branch; it rises linearly from 0."""
        self.drop_path = rate

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that do not decay, beside biases and norms: none."""
        return set()

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> logits [B, num_classes]."""
        for module in self.modules_of(architecture):
            images = module(images)
        return images

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> input of the classifier, `[B, D]`."""
        *modules, head = self.modules_of(architecture)
        for module in modules:
            images = module(images)
        return cast(Any, head).features(images)

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""
        return [module for block, choice in enumerate(architecture) for module in self.path(block, choice)]

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Sequential:
        """One architecture as a plain network, resize, stem, block_1 ... block_7, head, with copies of the slices.

        image_shape: not used, since the architecture resizes its images.

        Raises:
            InputError: an architecture outside the space.
        """
        architecture = self.space.resolve(architecture)
        names = ["resize", "stem", *(f"block_{number}" for number in range(1, len(architecture) - 2)), "head"]
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        shape: tuple[int, ...] = (3,)
        for block, (name, choice) in enumerate(zip(names, architecture)):
            plain = []
            for module in self.path(block, choice):
                plain.append(extracted(module, shape))
                shape = (getattr(module, "channels", *shape),)
            parts[name] = nn.Sequential(*plain) if name.startswith("block_") else plain[0]
        return nn.Sequential(parts).train(self.training)

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> Walked[T]:
        """Call `visitor` for every candidate on every shape of its inputs; image_shape: (3, H, W)."""
        return Walked(self, image_shape, visitor)

    def _candidate(self, block: int, layer: int, spec: Any) -> nn.Module:
        key = block, layer, spec
        if key not in self._views:
            self._views[key] = self._view(block, layer, spec)
        view: Any = self._views[key]
        # Not `view.train()`, which would change the mode of the shared weights too.
        view.training = self.training
        if isinstance(view, ElasticMBConv):
            view.drop_path = self.drop_path * (self._depths[block] + layer) / max(1, self._depths[-1] - 1)
        return view

    def _view(self, block: int, layer: int, spec: Any) -> nn.Module:
        if isinstance(spec, ResolutionSpec):
            return Resize(spec.side)
        weights = cast(Any, self.weights)[block - 1][layer]
        if isinstance(spec, ElasticMBConvSpec):
            return ElasticMBConv(weights, spec.channels, spec.kernel, spec.expand, spec.stride)
        return (ElasticConvBN if isinstance(spec, ElasticStemSpec) else ElasticHead)(weights, spec.channels)
