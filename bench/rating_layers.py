"""Layers whose candidates are slices of one set of weights, for the benchmark of rating."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SlimmableWeights(nn.Module):
    """The weights of a residual block at its widest, and a set of batch norms per width (nats-size's switchable ones)."""

    def __init__(self, inputs: int, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        widest = max(widths)
        self.first = nn.Conv2d(inputs, widest, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(widest, widest, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, widest, 1, stride, bias=False)
        self.norms = nn.ModuleDict({str(w): nn.ModuleList(nn.BatchNorm2d(w) for _ in range(3)) for w in widths})


class SlimmableResidual(nn.Module):
    """conv3x3, norm, ReLU, conv3x3, norm, plus conv1x1, norm; ReLU: the first `width` channels of the weights."""

    def __init__(self, weights: SlimmableWeights, width: int) -> None:
        super().__init__()
        self.weights, self.width = weights, width

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights
        first = F.conv2d(x, weights.first.weight[: self.width, : x.shape[1]], None, weights.first.stride, 1)
        short = F.conv2d(x, weights.shortcut.weight[: self.width, : x.shape[1]], None, weights.shortcut.stride)
        return self.rest(first, short)

    def rest(self, first: Tensor, short: Tensor) -> Tensor:
        """What no two widths share."""
        weights, width = self.weights, self.width
        norm_first, norm_second, norm_short = weights.norms[str(width)]
        y = F.conv2d(F.relu(norm_first(first)), weights.second.weight[:width, :width], None, 1, 1)
        return F.relu(norm_second(y) + norm_short(short))

    @classmethod
    def run_together(cls, candidates: Sequence[SlimmableResidual], x: Tensor) -> list[Tensor]:
        """The convolutions of the input once, at the widest."""
        weights, widest = candidates[0].weights, max(candidate.width for candidate in candidates)
        first = F.conv2d(x, weights.first.weight[:widest, : x.shape[1]], None, weights.first.stride, 1)
        short = F.conv2d(x, weights.shortcut.weight[:widest, : x.shape[1]], None, weights.shortcut.stride)
        return [c.rest(*(_narrow(part, c.width) for part in (first, short))) for c in candidates]


def _narrow(x: Tensor, width: int) -> Tensor:
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return x[:, :width].contiguous(memory_format=layout)


def slimmable_block(inputs: int, widths: Sequence[int], strides: Sequence[int]) -> list[list[nn.Module]]:
    """Residual layers of every width; the later ones take every width."""
    layers = []
    for index, stride in enumerate(strides):
        weights = SlimmableWeights(max(widths) if index else inputs, widths, stride)
        layers.append([SlimmableResidual(weights, width) for width in widths])
    return layers
