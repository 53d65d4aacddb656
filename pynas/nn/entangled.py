"""Weight entanglement (AutoFormer): a subnet's weights are the leading slices of the largest one's.

A module takes the width from its input. Rows of q, k and v alternate in the shared weight: rows 3 j, 3 j + 1 and 3 j + 2
are those of channel j, so that the leading rows hold the first heads of all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.nn.relative import relative_attention
from pynas.nn.transformer import PatchEmbedding, PooledHead, TransformerLayer


def sliced_linear(linear: Any, x: torch.Tensor, features: int) -> torch.Tensor:
    """Run a linear layer with its first `features` outputs and as many leading inputs as `x` `[..., C]` has."""
    return F.linear(x, linear.weight[:features, : x.shape[-1]], linear.bias[:features])


def sliced_norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Run layer norm over the last axis of `x` with the leading weights."""
    width = x.shape[-1]
    return F.layer_norm(x, (width,), norm.weight[:width], norm.bias[:width], norm.eps)


def sliced_qkv(linear: nn.Linear, x: torch.Tensor, heads: int, head_dim: int) -> torch.Tensor:
    """Queries, keys and values of the first heads, `[3, B, H, N, head_dim]`, from weights whose rows alternate."""
    rows, width = 3 * heads * head_dim, x.shape[-1]
    weight, bias = _unmixed(linear.weight[:, :width], rows), _unmixed(linear.bias, rows)
    return F.linear(x, weight, bias).unflatten(2, (3, heads, head_dim)).permute(2, 0, 3, 1, 4)


def _unmixed(shared: torch.Tensor, rows: int) -> torch.Tensor:
    """First `rows` rows in the order of a plain layer: all of q, all of k, all of v."""
    return torch.cat([shared[k:rows:3] for k in range(3)])


def accumulate(start: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, widths: Sequence[int]) -> list[torch.Tensor]:
    """start + x[..., :k] W[:, :k]^T for each k of the rising `widths`, as partial sums of the widest.

    start: `[..., D]`; x: `[..., C]`; weight: `[D, C]` or with more rows, of which the leading D count.
    """
    sums, done, total = [], 0, start.flatten(0, -2)
    weight = weight[: start.shape[-1]]
    for width in widths:
        total = torch.addmm(total, x[..., done:width].flatten(0, -2), weight[:, done:width].T)
        sums.append(total.view_as(start))
        done = width
    return sums


class EntangledTransformer(nn.Module):
    """A candidate of a layer: the first `heads` heads and `int(C * ratio)` hidden features of shared weights.

    weights: the largest layer; its rows of q, k and v alternate, unlike those of a plain layer.

    Raises:
        InputError: more heads than the weights have.
    """

    def __init__(self, weights: TransformerLayer, heads: int, ratio: float):
        super().__init__()
        if heads > weights.attention.heads:
            raise InputError(f"[entangled] expected at most {weights.attention.heads} heads, got {heads}")
        self.weights, self.heads, self.ratio = weights, heads, ratio

    def hidden(self, width: int) -> int:
        """Features inside the MLP for an input of `width` channels."""
        return int(width * self.ratio)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, N, C], C up to the width of the weights."""
        weights, width = self.weights, x.shape[-1]
        attended = _attend(weights, sliced_norm(weights.norm_attention, x), self.heads)
        x = x + weights.drop_path(sliced_linear(weights.attention.project, attended, width))
        hidden = weights.mlp.act(sliced_linear(weights.mlp.fc1, sliced_norm(weights.norm_mlp, x), self.hidden(width)))
        return x + weights.drop_path(sliced_linear(weights.mlp.fc2, hidden, width))

    @classmethod
    def run_together(cls, candidates: Sequence[EntangledTransformer], x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of several candidates of a layer in evaluation mode; each head is computed once, and each hidden feature
        once per number of heads."""
        weights, width = candidates[0].weights, x.shape[-1]
        attention, mlp = weights.attention, cast(Any, weights.mlp)
        heads = sorted({candidate.heads for candidate in candidates})
        attended = _attend(weights, sliced_norm(weights.norm_attention, x), heads[-1])
        outputs: dict[tuple[int, int], torch.Tensor] = {}
        by_heads = accumulate(x + attention.project.bias[:width], attended, attention.project.weight,
                              [attention.head_dim * count for count in heads])  # fmt: skip
        for count, y in zip(heads, by_heads):
            hidden = sorted({candidate.hidden(width) for candidate in candidates if candidate.heads == count})
            units = mlp.act(sliced_linear(mlp.fc1, sliced_norm(weights.norm_mlp, y), hidden[-1]))
            sums = accumulate(y + mlp.fc2.bias[:width], units, mlp.fc2.weight, hidden)
            outputs |= {(count, size): z for size, z in zip(hidden, sums)}
        return [outputs[candidate.heads, candidate.hidden(width)] for candidate in candidates]

    @torch.no_grad()
    def extract(self, shape: tuple[int, ...]) -> TransformerLayer:
        """Plain layer with copies of the weights for an input of `shape` `(N, C)`."""
        weights, width = self.weights, shape[-1]
        attention = weights.attention
        with torch.device("meta"):
            plain = TransformerLayer(width, self.heads, attention.head_dim, self.hidden(width),
                                     attention.position_key.max_distance)  # fmt: skip
        copy_slices(plain, weights)
        rows = 3 * self.heads * attention.head_dim
        plain.attention.qkv.weight = nn.Parameter(_unmixed(attention.qkv.weight[:, :width], rows))
        plain.attention.qkv.bias = nn.Parameter(_unmixed(attention.qkv.bias, rows))
        plain.drop_path = copy_module(weights.drop_path)
        return plain.train(self.training)


class EntangledPatches(nn.Module):
    """The patch embedding at every width: `forward(images, dim)` returns the first `dim` channels."""

    def __init__(self, weights: PatchEmbedding):
        super().__init__()
        self.weights = weights

    def forward(self, images: torch.Tensor, dim: int) -> torch.Tensor:
        """images: [B, 3, S, S] -> tokens [B, N, dim]."""
        weights = self.weights
        position = weights.positions(images)
        patches = F.conv2d(images, weights.conv.weight[:dim], cast(Any, weights.conv.bias)[:dim], weights.patch)
        tokens = patches.flatten(2).transpose(1, 2)
        first = weights.class_token[..., :dim].expand(images.shape[0], -1, -1)
        return torch.cat((first, tokens), 1) + position[..., :dim]

    def extract(self, dim: int) -> PatchEmbedding:
        """Plain patch embedding of width `dim` with copies of the weights."""
        with torch.device("meta"):
            plain = PatchEmbedding(dim, self.weights.patch, self.weights.image_size)
        copy_slices(plain, self.weights)
        return plain.train(self.training)


class EntangledHead(nn.Module):
    """Norm, mean over the patches and classifier for inputs of every width."""

    def __init__(self, weights: PooledHead):
        super().__init__()
        self.weights = weights

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, N, C] -> input of the classifier, [B, C]."""
        return sliced_norm(self.weights.norm, x)[:, 1:].mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, N, C] -> logits [B, num_classes]."""
        return sliced_linear(self.weights.classifier, self.features(x), self.weights.classifier.out_features)

    def extract(self, shape: tuple[int, ...]) -> PooledHead:
        """Plain head for inputs of `shape` `(N, C)` with copies of the weights."""
        with torch.device("meta"):
            plain = PooledHead(shape[-1], self.weights.classifier.out_features)
        copy_slices(plain, self.weights)
        return plain.train(self.training)


def _attend(weights: TransformerLayer, x: torch.Tensor, heads: int) -> torch.Tensor:
    attention = weights.attention
    query, key, value = sliced_qkv(attention.qkv, x, heads, attention.head_dim)
    return relative_attention(query, key, value, attention.position_key, attention.position_value)


@torch.no_grad()
def copy_slices(plain: nn.Module, shared: nn.Module) -> None:
    """Set every parameter of `plain` to a copy of the leading slices of the parameter of that name in `shared`."""
    theirs = dict(shared.named_parameters())
    for module_name, module in plain.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            source = theirs[f"{module_name}.{name}" if module_name else name]
            box = tuple(slice(0, size) for size in parameter.shape)
            setattr(module, name, nn.Parameter(source[box].detach().clone(), parameter.requires_grad))
