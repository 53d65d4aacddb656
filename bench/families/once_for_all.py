"""Once-for-all style: elastic layers, elastic depth, whole networks, and a ResNet whose widths follow the input's shape."""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.families.elastic import Network, Norm, PointConv, Residual
from bench.families.family import Family, Path, family
from pynas.rating import configured, elastic_depth, set_attributes


def elastic_layers(size: str) -> Family:
    """Layers of 3 kernels and 3 ratios each: 81 or 729 paths."""
    return _layers("ofa-layers", size, 3 if size == "bench" else 2, (3, 5, 7), (3, 4, 6), None)


def elastic_layers_and_depth(size: str) -> Family:
    """Layers of 2 kernels and 2 ratios, one to all of them deep: 84 or 340 paths."""
    return _layers("ofa-depth", size, 4 if size == "bench" else 3, (3, 5), (3, 6), 1)


def _layers(name: str, size: str, depth: int, kernels: tuple, ratios: tuple, least: int | None) -> Family:
    torch.manual_seed(0)
    width, side, sizes = (24, 16, (8, 8)) if size == "bench" else (8, 6, (3, 2))
    module = nn.ModuleList(Residual(width // 2 if d == 0 else width, width, 1 + (d == 0)) for d in range(depth))
    choices = list(itertools.product(kernels, ratios))
    configs = [{"conv.active_kernel_size": k, "conv.active_expand_ratio": e} for k, e in choices]
    layers, allowed = [configured(layer, configs, set_attributes) for layer in module], None
    if least is not None:
        layers, allowed = elastic_depth(layers, least)

    def run(path: Path, x: Tensor) -> Tensor:
        for layer, choice in zip(module, path):
            if choice < len(choices):
                layer.conv.active_kernel_size, layer.conv.active_expand_ratio = choices[choice]
                x = layer(x)
        return x

    return family(name, module, layers, run, (width // 2, side, side), sizes, allowed=allowed)


def networks(size: str) -> Family:
    """Sampled whole networks, each a candidate of one layer: 6 or 24."""
    torch.manual_seed(0)
    (widths, depth), side, sizes = (((16, 24, 32), 4), 32, (8, 8)) if size == "bench" else (((8, 8), 2), 12, (3, 2))
    net, rng = Network(widths, depth), random.Random(0)
    blocks = len(net.blocks)
    configs = [
        {
            "ks": rng.choices((3, 5, 7), k=blocks),
            "e": rng.choices((3, 4, 6), k=blocks),
            "d": rng.choices(range(max(depth - 2, 1), depth + 1), k=len(widths)),
        }
        for _ in range(24 if size == "bench" else 6)
    ]
    layers = [configured(net, configs, lambda net, config: net.set_active_subnet(**config))]

    def run(path: Path, x: Tensor) -> Tensor:
        net.set_active_subnet(**configs[path[0]])
        return net(x)

    return family("ofa-networks", net, layers, run, (3, side, side), sizes, loss="cross_entropy")


class Bottleneck(nn.Module):
    """Bottleneck of `active_expand_ratio`; `active_out_channel` says how wide the output is, None: as wide as the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = PointConv(inputs, outputs), Norm(outputs)
        self.weight, self.bn2 = nn.Parameter(torch.randn(outputs, outputs, 3, 3) / outputs), Norm(outputs)
        self.conv3, self.bn3 = PointConv(outputs, outputs), Norm(outputs)
        self.short = nn.Sequential(nn.AvgPool2d(2), PointConv(inputs, outputs), Norm(outputs)) if stride == 2 else None
        self.active_expand_ratio, self.active_out_channel, self.stride = 1.0, None, stride

    def forward(self, x: Tensor) -> Tensor:
        width = self.active_out_channel or x.size(1)
        middle = int(width * self.active_expand_ratio)
        self.conv1.active_out_channel, self.conv3.active_out_channel = middle, width
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.conv2d(y, self.weight[:middle, :middle].contiguous(), None, self.stride, 1)
        y = self.bn3(self.conv3(F.relu(self.bn2(y), inplace=True)))
        if self.short is not None:
            self.short[1].active_out_channel, x = width, self.short[:1](x)
            x = self.short[1:](x)
        return F.relu(y + x)


def resnet(size: str) -> Family:
    """Two stages of 3 widths and 2 ratios, the layers after a stage's first as wide as their input: 72 or 324 paths."""
    torch.manual_seed(0)
    width, side, sizes, ratios = (48, 16, (8, 8), (0.25, 0.5, 1.0)) if size == "bench" else (12, 8, (3, 2), (0.5, 1.0))
    plan = [(width // 2, width, 2, True), (width, width, 1, False), (width, width, 2, True), (width, width, 1, False)]
    module = nn.ModuleList(Bottleneck(*sizes[:3]) for sizes in plan)
    firsts = [(w, e) for w in (width // 2, width * 3 // 4, width) for e in (0.5, 1.0)]
    choices = [firsts if first else [(None, e) for e in ratios] for *_, first in plan]
    closing = nn.Sequential(PointConv(width, width), Norm(width))
    if size == "test":
        module, choices = module[:3], [*choices[:2], firsts]

    def set_active(layer: nn.Module, config: tuple) -> None:
        layer.active_out_channel, layer.active_expand_ratio = config

    layers = [configured(layer, configs, set_active) for layer, configs in zip(module, choices)]

    def run(path: Path, x: Tensor) -> Tensor:
        for layer, configs, choice in zip(module, choices, path):
            layer.active_out_channel, layer.active_expand_ratio = configs[choice]
            x = layer(x)
        return closing(x)

    return family(
        "ofa-resnet", nn.ModuleList([module, closing]), [*layers, [closing]], run, (width // 2, side, side), sizes
    )
