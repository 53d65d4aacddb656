"""Layers whose candidates are slices of one set of weights, for the benchmark of rating."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EntangledWeights(nn.Module):
    """A transformer layer at its largest: 64 channels per head."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_first, self.norm_second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.ModuleList(nn.Linear(width, heads * 64) for _ in range(3))
        self.project = nn.Linear(heads * 64, width)
        self.grow, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)


class EntangledTransformer(nn.Module):
    """The first `heads` heads and the first `hidden` features of the weights (AutoFormer)."""

    def __init__(self, weights: EntangledWeights, heads: int, hidden: int) -> None:
        super().__init__()
        self.weights, self.heads, self.hidden = weights, heads, hidden

    def forward(self, x: Tensor) -> Tensor:
        return self.run_together([self], x)[0]

    @classmethod
    def run_together(cls, candidates: Sequence[EntangledTransformer], x: Tensor) -> list[Tensor]:
        """Each head once, each hidden feature once per number of heads; sums over them grow from the least to the most."""
        weights, heads = candidates[0].weights, sorted({candidate.heads for candidate in candidates})
        attended = cls._attend(weights, weights.norm_first(x), heads[-1])
        by_heads = _accumulate(x + weights.project.bias, attended, weights.project.weight, [64 * h for h in heads])
        outputs = {}
        for count, y in zip(heads, by_heads):
            hidden = sorted({candidate.hidden for candidate in candidates if candidate.heads == count})
            grown = F.linear(weights.norm_second(y), weights.grow.weight[: hidden[-1]], weights.grow.bias[: hidden[-1]])
            sums = _accumulate(y + weights.shrink.bias, F.gelu(grown), weights.shrink.weight, hidden)
            outputs |= {(count, size): z for size, z in zip(hidden, sums)}
        return [outputs[candidate.heads, candidate.hidden] for candidate in candidates]

    @staticmethod
    def _attend(weights: EntangledWeights, x: Tensor, heads: int) -> Tensor:
        query, key, value = (
            F.linear(x, part.weight[: heads * 64], part.bias[: heads * 64]).unflatten(2, (heads, 64)).transpose(1, 2)
            for part in weights.qkv
        )
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _accumulate(start: Tensor, x: Tensor, weight: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """start + x[..., :k] W[:, :k]^T for each k of the ascending widths, at the price of the widest."""
    sums, done, total = [], 0, start.flatten(0, -2)
    for width in widths:
        total = torch.addmm(total, x[..., done:width].flatten(0, -2), weight[:, done:width].T)
        sums.append(total.view_as(start))
        done = width
    return sums


def transformer_block(width: int, heads: Sequence[int], hidden: Sequence[int], depth: int) -> list[list[nn.Module]]:
    """Transformer layers of every number of heads and hidden features."""
    layers = []
    for _ in range(depth):
        weights = EntangledWeights(width, max(heads), max(hidden))
        layers.append([EntangledTransformer(weights, h, f) for h in heads for f in hidden])
    return layers
