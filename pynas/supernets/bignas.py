"""BigNAS's supernet: one convolutional network at its largest; every architecture runs on slices of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.elastic import ElasticMBConv, copy_centres, elastic_conv_bn
from pynas.nn.mbconv import MBConv, conv_bn
from pynas.nn.network import Head
from pynas.spaces import Architecture, Space
from pynas.spaces.bignas import ElasticMBConvSpec


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

    space: of `pynas.spaces.bignas`.

    Raises:
        InputError: fewer than one class.
    """

    def __init__(self, space: Space, num_classes: int = 1000):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"[supernet] expected at least one class, got {num_classes}")
        self.space = space
        width = max(spec.channels for spec in space.blocks[1][0].layers[0])
        self.stem = conv_bn(3, width, 3, 2)
        self.stages = nn.ModuleList()
        for cells in space.blocks[2:-1]:
            stage = nn.ModuleList()
            out = max(cell.layers[0][0].channels for cell in cells)
            deepest = max(cells, key=lambda cell: len(cell.layers))
            for layer in deepest.layers:
                kernel = max(spec.kernel for spec in layer)
                stage.append(MBConv(width, out, kernel, layer[0].expand, layer[0].stride))
                width = out
            self.stages.append(stage)
        self.head = Head(width, max(spec.channels for spec in space.blocks[-1][0].layers[0]), num_classes)

    def layers(self, architecture: Architecture) -> list[list[ElasticMBConv]]:
        """The candidates that an architecture runs, stage by stage."""
        return [
            [
                self._candidate(weights, spec)
                for weights, spec in zip(cast(Any, stage), self._specs(architecture, number))
            ]
            for number, stage in enumerate(self.stages, 2)
        ]

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> logits [B, num_classes]."""
        x = Resize(self._specs(architecture, 0)[0].side)(images)
        x = elastic_conv_bn(self.stem, x, self._specs(architecture, 1)[0].channels, 3)
        for stage in self.layers(architecture):
            for layer in stage:
                x = layer(x)
        x = elastic_conv_bn(self.head.conv, x, self._specs(architecture, -1)[0].channels)
        classifier, pooled = self.head.classifier, self.head.dropout(x.mean((2, 3)))
        return F.linear(pooled, classifier.weight[:, : pooled.shape[1]], classifier.bias)

    def extract(self, architecture: Architecture | str) -> nn.Sequential:
        """A plain network with copies of the slices: resize, stem, block_1 ... block_7, head.

        Raises:
            InputError: an architecture outside the space.
        """
        if isinstance(architecture, str):
            architecture = self.space.parse(architecture)
        self.space.check(architecture)
        with self.head.classifier.weight.device:
            return self._taken(architecture).train(self.training)

    def _taken(self, architecture: Architecture) -> nn.Sequential:
        width = self._specs(architecture, 1)[0].channels
        parts: OrderedDict[str, nn.Module] = OrderedDict(resize=Resize(self._specs(architecture, 0)[0].side))
        parts["stem"] = conv_bn(3, width, 3, 2)
        copy_centres(parts["stem"], self.stem)
        for number, stage in enumerate(self.layers(architecture), 1):
            taken = []
            for layer in stage:
                taken.append(layer.extract((width,)))
                width = layer.channels
            parts[f"block_{number}"] = nn.Sequential(*taken)
        parts["head"] = Head(width, self._specs(architecture, -1)[0].channels, self.head.classifier.out_features)
        copy_centres(parts["head"], self.head)
        return nn.Sequential(parts)

    def _specs(self, architecture: Architecture, block: int) -> list[Any]:
        """What the layers of a block chose."""
        choice = architecture[block]
        cells = self.space.blocks[block]
        return [layer[c] for layer, c in zip(cells[choice.cell].layers, choice.path)]

    def _candidate(self, weights: MBConv, spec: ElasticMBConvSpec) -> ElasticMBConv:
        candidate = ElasticMBConv(weights, spec.channels, spec.kernel, spec.expand, spec.stride)
        candidate.training = self.training
        return candidate
