"""Blocks of torchvision, timm and torch.nn as candidates."""

from __future__ import annotations

import functools

import timm
import torch
from timm.models._efficientnet_blocks import InvertedResidual as TimmInverted
from timm.models.convnext import ConvNeXtBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from bench.families.family import Family, Path, family


def _choices(name: str, layers: list[list[nn.Module]], shape: tuple[int, ...], sizes: tuple[int, ...]) -> Family:
    module = nn.ModuleList(nn.ModuleList(layer) for layer in layers)

    def run(path: Path, x: Tensor) -> Tensor:
        for layer, choice in zip(module, path):
            x = layer[choice](x)
        return x

    return family(name, module, layers, run, shape, sizes)


def resnet18(size: str) -> Family:
    """Four layers like ResNet-18's second stages, of one block, two blocks or a bottleneck: 9 or 81 paths."""
    torch.manual_seed(0)
    width, depth, side, sizes = (64, 4, 14, (8, 8)) if size == "bench" else (8, 2, 6, (3, 2))

    layers = [
        [
            BasicBlock(width, width),
            nn.Sequential(BasicBlock(width, width), BasicBlock(width, width)),
            Bottleneck(width, width // 4),
        ]
        for _ in range(depth)
    ]
    return _choices("resnet18", layers, (width, side, side), sizes)


def mobilenet_v3(size: str) -> Family:
    """MobileNetV3 blocks of 2 kernels and 3 widths within: 36 or 216 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (24, 40, 3, 16, (8, 8)) if size == "bench" else (8, 16, 2, 6, (3, 2))
    norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    layers = [
        [InvertedResidual(InvertedResidualConfig(inputs if d == 0 else width, kernel, ratio * width, width, True, "HS",
                                                 1 + (d == 0), 1, 1.0), norm) for kernel in (3, 5) for ratio in (2, 3, 4)]
        for d in range(depth)
    ]  # fmt: skip
    return _choices("mobilenet-v3", layers, (inputs, side, side), sizes)


def timm_efficientnet(size: str) -> Family:
    """timm's EfficientNet blocks with squeeze and excite and drop path: 36 or 216 paths."""
    torch.manual_seed(0)
    inputs, width, depth, side, sizes = (24, 40, 3, 16, (8, 8)) if size == "bench" else (8, 12, 2, 6, (3, 2))
    rest = {
        "se_layer": functools.partial(timm.layers.SqueezeExcite, rd_ratio=0.25),
        "act_layer": nn.SiLU,
        "drop_path_rate": 0.2,
    }
    layers = [
        [TimmInverted(inputs if d == 0 else width, width, kernel, 1 + (d == 0), exp_ratio=ratio, **rest)
         for kernel in (3, 5, 7) for ratio in (3, 6)] for d in range(depth)
    ]  # fmt: skip
    return _choices("timm-efficientnet", layers, (inputs, side, side), sizes)


def timm_vit(size: str) -> Family:
    """timm's transformer blocks with drop path and layer scale: 9 or 243 paths."""
    torch.manual_seed(0)
    width, depth, tokens, sizes = (48, 5, 50, (8, 8)) if size == "bench" else (16, 2, 5, (3, 2))
    layers = [[Block(width, heads, ratio, drop_path=0.1, init_values=0.5)
               for heads, ratio in ((2, 3), (4, 3), (4, 4))] for _ in range(depth)]  # fmt: skip
    return _choices("timm-vit", layers, (tokens, width), sizes)


def timm_convnext(size: str) -> Family:
    """ConvNeXt blocks with drop path: 9 or 243 paths."""
    torch.manual_seed(0)
    width, depth, side, sizes = (32, 5, 12, (8, 8)) if size == "bench" else (8, 2, 6, (3, 2))
    kinds = ((3, 4), (5, 4), (7, 3))
    layers = [[ConvNeXtBlock(width, width, kernel, mlp_ratio=ratio, drop_path=0.1, ls_init_value=0.5, conv_mlp=d % 2 == 1)
               for kernel, ratio in kinds] for d in range(depth)]  # fmt: skip
    return _choices("timm-convnext", layers, (width, side, side), sizes)


def encoder_layers(size: str) -> Family:
    """torch's own transformer encoder layers: 9 or 243 paths."""
    torch.manual_seed(0)
    width, depth, tokens, sizes = (48, 5, 50, (8, 8)) if size == "bench" else (16, 2, 5, (3, 2))
    layers = [[nn.TransformerEncoderLayer(width, heads, ratio * width, batch_first=True, norm_first=heads == 4)
               for heads, ratio in ((2, 3), (4, 3), (4, 4))] for _ in range(depth)]  # fmt: skip
    return _choices("torch-encoder", layers, (tokens, width), sizes)
