"""Adapters until those of `pynas.rating` have the same signatures."""

from operator import attrgetter

from torch import nn


class _Runs(nn.Module):
    def __init__(self, layer, choice, run, pick):
        super().__init__()
        self.layer, self.choice, self.run, self.pick = layer, choice, run, pick

    def forward(self, x):
        y = self.run(self.layer, x, self.choice)
        return y if self.pick is None else y[self.pick]


def choice_layers(layers):
    return [list(layer) for layer in layers]


def encoded(layer, codes, call=None, *, pick=None):
    return [_Runs(layer, code, call or (lambda layer, x, code: layer(x, code)), pick) for code in codes]


def configured(layer, configs, setter="set_sample_config", *, pick=None):
    def run(layer, x, config):
        setter(layer, config) if callable(setter) else getattr(layer, setter)(config)
        return layer(x)

    return [_Runs(layer, config, run, pick) for config in configs]


def set_attributes(layer, config):
    for name, value in config.items():
        owner, _, last = name.rpartition(".")
        setattr(attrgetter(owner)(layer) if owner else layer, last, value)


def elastic_depth(layers, least=1):
    layers = [[*layer, *([nn.Identity()] if i >= least else [])] for i, layer in enumerate(layers)]
    skips = [len(layer) - 1 if i >= least else -1 for i, layer in enumerate(layers)]

    def allowed(path):
        skipped = [choice == skip for choice, skip in zip(path, skips)]
        return skipped == sorted(skipped)

    return layers, allowed
