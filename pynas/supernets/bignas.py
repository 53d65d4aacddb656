"""BigNAS's supernet: one convolutional network at its largest; every architecture runs on slices of it."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.elastic import ElasticConvBN, ElasticHead, ElasticMBConv
from pynas.nn.mbconv import MBConv, conv_bn
from pynas.nn.network import Head
from pynas.spaces import Architecture, Choice, Space
from pynas.spaces.bignas import ElasticMBConvSpec, ElasticStemSpec, ResolutionSpec
from pynas.supernets.shapes import alone


class Resize(nn.Module):
    """Bilinear, to a square of `side` pixels; images of that size pass unchanged."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: [B, 3, H, W] -> [B, 3, side, side]."""
        if images.shape[-2:] == (self.side, self.side):
            return images
        return F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)


class BigNAS(nn.Module):
    """Elastic resolution, stem, stages (channels, layers, kernel of each layer) and head, of shared weights.

    Used as a `Supernet`: `layers(block, cell)` are the candidates, each a view of `weights`, the largest network's stem,
    stages and head.

    space: of `pynas.spaces.bignas`.

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
        # By (block, layer, description); a dictionary, so that the weights are registered once.
        self._views: dict[tuple, nn.Module] = {}
        # Layers of stages before each block.
        self._depths = [0, 0, *accumulate((len(cast(Any, stage)) for stage in self.weights[1:-1]), initial=0)]
        self.drop_path = 0.0

    @property
    def classifier(self) -> nn.Linear:
        """The largest network's last layer."""
        return cast(Any, self.weights)[-1][0].classifier

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """The candidates of a cell, `[layer][candidate]`."""
        described = self.space.blocks[block][cell].layers
        return [[self._candidate(block, n, spec) for spec in layer] for n, layer in enumerate(described)]

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """The modules that a path runs."""
        described = self.space.blocks[block][choice.cell].layers
        return [self._candidate(block, n, layer[c]) for n, (layer, c) in enumerate(zip(described, choice.path))]

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth: the last layer of the stages drops its branch with this probability, the first never."""
        self.drop_path = rate

    def no_weight_decay(self) -> set[str]:
        """The names of parameters that do not decay, beside biases and norms: none."""
        return set()

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> logits [B, num_classes]."""
        for module in self.modules_of(architecture):
            images = module(images)
        return images

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> what the classifier reads, `[B, D]`."""
        *modules, head = self.modules_of(architecture)
        for module in modules:
            images = module(images)
        return cast(Any, head).features(images)

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Everything that runs for an architecture, and nothing else."""
        return [module for block, choice in enumerate(architecture) for module in self.path(block, choice)]

    def extract(self, architecture: Architecture | str) -> nn.Sequential:
        """A plain network with copies of the slices: resize, stem, block_1 ... block_7, head.

        Raises:
            InputError: an architecture outside the space.
        """
        if isinstance(architecture, str):
            architecture = self.space.parse(architecture)
        self.space.check(architecture)
        names = ["resize", "stem", *(f"block_{number}" for number in range(1, len(architecture) - 2)), "head"]
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        shape: tuple[int, ...] = (3,)
        for block, (name, choice) in enumerate(zip(names, architecture)):
            taken = []
            for module in self.path(block, choice):
                taken.append(alone(module, shape))
                shape = (getattr(module, "channels", *shape),)
            parts[name] = nn.Sequential(*taken) if name.startswith("block_") else taken[0]
        return nn.Sequential(parts).train(self.training)

    def _candidate(self, block: int, layer: int, spec: Any) -> nn.Module:
        key = block, layer, spec
        if key not in self._views:
            self._views[key] = self._view(block, layer, spec)
        view: Any = self._views[key]
        # Its mode alone: the parts of the weights have theirs.
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
