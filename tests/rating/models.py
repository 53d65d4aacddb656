"""Layers to rate in tests, and the naive rating that runs each path alone."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class MBConv(nn.Module):
    def __init__(self, inputs, outputs, kernel, ratio, stride):
        super().__init__()
        middle = inputs * ratio
        self.expand, self.bn1 = nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False)
        self.bn2, self.se = nn.BatchNorm2d(middle), SqueezeExcite(middle)
        self.project, self.bn3 = nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.act(self.bn1(self.expand(x)))
        y = self.se(self.act(self.bn2(self.depthwise(y))))
        y = self.bn3(self.project(y))
        return y + x if self.residual else y


def mbconv_layers(inputs=4, outputs=6, depth=3, kernels=(3, 5), ratios=(2, 3), seed=0):
    """Layers with weights and batch-norm statistics that all differ, left in training mode."""
    torch.manual_seed(seed)
    layers = [
        [MBConv(outputs if d else inputs, outputs, k, r, 1 if d else 2) for r in ratios for k in kernels]
        for d in range(depth)
    ]
    for module in itertools.chain.from_iterable(layers):
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
                nn.init.normal_(part.running_mean, 0, 0.3)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
    return layers


def some_batches(sizes=(4, 4, 2), inputs=4, outputs=6, side=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, inputs, side, side, generator=generator),
         torch.randn(n, outputs, side // 2, side // 2, generator=generator) * 2)
        for n in sizes
    ]  # fmt: skip


def norms_of(layers):
    """The batch norms below nested lists of modules."""
    parts = itertools.chain.from_iterable(module.modules() for layer in layers for module in layer)
    return [part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def re_estimate(layers, path, calibration):
    """One path's batch-norm statistics anew, the way torch averages them with momentum=None."""
    chosen = [[layer[choice]] for layer, choice in zip(layers, path)]
    for norm in norms_of(chosen):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for x in calibration:
        for (module,) in chosen:
            x = module(x)
    for norm in norms_of(chosen):
        norm.eval()


def alone(layers, batches, loss, norm, calibration=()):
    """Every path run alone from the input: scores with one axis per layer."""
    layers = copy.deepcopy(layers)
    for module in itertools.chain.from_iterable(layers):
        module.eval()
    for part in norms_of(layers):
        part.train(norm == "batch")
    scores = np.full([len(layer) for layer in layers], np.nan)
    for path in np.ndindex(*scores.shape):
        total = samples = 0
        if norm == "recalibrate":
            with torch.no_grad():
                re_estimate(layers, path, calibration)
        for x, target in batches:
            y = x
            with torch.no_grad():
                for layer, choice in zip(layers, path):
                    y = layer[choice](y.clone())
                total += float(loss(y, target)) * len(x)
            samples += len(x)
        scores[path] = total / samples
    return scores


NAIVE_LOSSES = {
    "relative_l1": lambda y, t: (y - t).abs().mean() / t.std(),
    "mse": lambda y, t: F.mse_loss(y, t),
    "cosine": lambda y, t: (2 - 2 * F.cosine_similarity(y.flatten(1), t.flatten(1))).mean(),
}
