"""Supernets of other projects as layers of candidates for `rate`.

Many supernets have no list of candidates but layers that take a choice as an argument or a configuration. Each function here
returns the candidates of one layer; all of them hold that layer, so its weights exist once.

    class Block(nn.Module):                              # forward(x, choices): an nn.ModuleList of choice layers
        def __init__(self):
            super().__init__()
            kernels = (1, 3)
            both = [nn.ModuleList([nn.Conv2d(4, 4, k, padding="same") for k in kernels]) for _ in "ab"]
            self.layers = nn.ModuleList(both)
        def forward(self, x, choices):
            for layer, choice in zip(self.layers, choices):
                x = layer[choice](x)
            return x
    table = pynas.rate(choice_layers(block.layers), batches)

    layers = [encoded(layer, [0, 1, 2]) for layer in block.layers]                  # layer(x, code)
    layers = [encoded(block, itertools.product(range(2), range(2)))]                # only the whole block takes a code
    layers = [configured(layer, [{"heads": 3}, {"heads": 4}]) for layer in layers]  # layer.set_sample_config(heads=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def choice_layers(layers: Iterable[Iterable[nn.Module]]) -> list[list[nn.Module]]:
    """Return the candidates of an `nn.ModuleList` of `nn.ModuleList`, one inner list per layer."""
    return [list(layer) for layer in layers]


def encoded(layer: nn.Module, codes: Iterable[Any]) -> list[nn.Module]:
    """Return one candidate per code: `layer(x, code)`. Where the layer is a whole network, its paths share no prefixes."""
    return [Encoded(layer, code) for code in codes]


def configured(layer: nn.Module, configs: Iterable[Any], setter: str = "set_sample_config") -> list[nn.Module]:
    """Return one candidate per configuration: `layer.set_sample_config(config)` or `(**config)`, then `layer(x)`."""
    return [Configured(layer, config, setter) for config in configs]


class Encoded(nn.Module):
    """A layer with its second argument fixed."""

    def __init__(self, layer: nn.Module, code: Any) -> None:
        super().__init__()
        self.layer, self.code = layer, code

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.code)


class Configured(nn.Module):
    """A layer that is configured before it runs."""

    def __init__(self, layer: nn.Module, config: Any, setter: str = "set_sample_config") -> None:
        super().__init__()
        self.layer, self.config, self.setter = layer, config, setter

    def forward(self, x: Tensor) -> Tensor:
        configure = getattr(self.layer, self.setter)
        if isinstance(self.config, Mapping):
            configure(**self.config)
        else:
            configure(self.config)
        return self.layer(x)
