"""AutoFormer and PreNAS style: layers by keywords, layers that may be left out, whole networks by one dictionary."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from torch import Tensor, nn

from bench.families.family import Family, Path, family
from bench.families.super_layers import HEAD, EncoderLayer, LayerNormSuper, LinearSuper
from pynas.rating import configured, elastic_depth


class Transformer(nn.Module):
    """Vision transformer without a stem; its configuration is one dictionary for the whole network."""

    def __init__(self, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.patch = LinearSuper(24, channels)
        self.blocks = nn.ModuleList(EncoderLayer(channels, heads) for _ in range(depth))
        self.norm, self.head = LayerNormSuper(channels), LinearSuper(channels, 10)

    def set_sample_config(self, config: dict[str, Any]) -> None:
        depth, width = config["layer_num"], config["embed_dim"][0]
        self.patch.set_sample_config(24, width)
        for i, block in enumerate(self.blocks):
            if i < depth:
                block.set_sample_config(False, width, config["mlp_ratio"][i], config["num_heads"][i])
            else:
                block.set_sample_config(is_identity_layer=True)
        self.norm.set_sample_config(width)
        self.head.set_sample_config(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def layers(size: str) -> Family:
    """Layers of 2 numbers of heads and 2 MLP ratios, each configured by keywords: 16 or 256 paths."""
    return _layers("autoformer", size, 4 if size == "bench" else 2, None)


def layers_and_depth(size: str) -> Family:
    """Layers as above, where the last may be left out, and a norm behind them (PreNAS): 20 or 336 paths."""
    return _layers("prenas", size, 4 if size == "bench" else 2, 2 if size == "bench" else 1)


def _layers(name: str, size: str, depth: int, least: int | None) -> Family:
    torch.manual_seed(0)
    heads, tokens, sizes = ((3, 4), 50, (8, 8)) if size == "bench" else ((1, 2), 5, (3, 2))
    width = heads[-1] * HEAD
    module = nn.ModuleList(EncoderLayer(width, heads[-1]) for _ in range(depth))
    configs = [{"sample_num_heads": h, "sample_mlp_ratio": r} for h, r in itertools.product(heads, (3.5, 4))]
    configs = [{"is_identity_layer": False, "sample_embed_dim": width} | config for config in configs]
    given = [configured(layer, configs, lambda layer, config: layer.set_sample_config(**config)) for layer in module]
    allowed, norm = None, None
    if least is not None:
        norm = nn.LayerNorm(width)
        given, allowed = elastic_depth(given, least)

    def run(path: Path, x: Tensor) -> Tensor:
        for layer, choice in zip(module, path):
            layer.set_sample_config(**(configs[choice] if choice < len(configs) else {"is_identity_layer": True}))
            x = layer(x)
        return x if norm is None else norm(x)

    whole = module if norm is None else nn.ModuleList([module, norm])
    return family(name, whole, given, run, (tokens, width), sizes, allowed=allowed, tail=norm)


def networks(size: str) -> Family:
    """Sampled whole networks of several widths and depths, each a candidate of one layer: 6 or 24."""
    torch.manual_seed(0)
    heads, depth, tokens, count, sizes = ((3, 4), 6, 50, 24, (8, 8)) if size == "bench" else ((1, 2), 3, 5, 6, (3, 2))
    width, rng = heads[-1] * HEAD, random.Random(0)
    net = Transformer(width, heads[-1], depth)
    configs = [
        {"layer_num": rng.choice((depth - 1, depth)), "embed_dim": [rng.choice((width - 8, width))] * depth,
         "num_heads": rng.choices(heads, k=depth), "mlp_ratio": rng.choices((3.5, 4.0), k=depth)} for _ in range(count)
    ]  # fmt: skip

    def run(path: Path, x: Tensor) -> Tensor:
        net.set_sample_config(configs[path[0]])
        return net(x)

    given = [configured(net, configs)]
    return family("autoformer-networks", net, given, run, (tokens, 24), sizes, loss="cross_entropy")
