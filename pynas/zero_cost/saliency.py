"""Gradients of the largest subnet, and the SNIP scores of an AutoFormer's subnets from them (PreNAS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from pynas.costs.layers import LayerTable
from pynas.errors import InputError
from pynas.ops import saliency_boxes
from pynas.spaces import Architecture, Cell
from pynas.supernets import AutoFormer
from pynas.supernets.modes import batch_statistics, device_of

# Mean and deviation of the random images' channels: ImageNet's, as in the released code.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISERS = ("layer", "balance", "snip")


@dataclass(frozen=True)
class Saliency:
    """Scores of every architecture, each a sum along its path; higher is better.

    snip: eq. 4, the sum of |g * w| over all parameters of the subnet.
    layer: eq. 13, each layer's sum divided by the sum of that layer in the largest subnet; stem and head count nothing.
    balance: variant of eq. 13 in the released code (`balance_taylor6`): sums over the weights of qkv, fc1 and fc2, each
        divided by its sum |w| times sum |g|, at the widest embedding dimension for all subnets.

    Raises:
        InputError: scores that are not finite.
    """

    snip: LayerTable
    layer: LayerTable
    balance: LayerTable

    def __post_init__(self) -> None:
        # A selection by NaN would end without an error.
        for name in NORMALISERS:
            table = getattr(self, name)
            if not all(np.isfinite(part).all() for part in (table.fixed, *table.layers)):
                raise InputError(f"[saliency] expected finite scores, got NaN or infinity among those of {name!r}")

    def normalised(self, name: str) -> LayerTable:
        """Return the scores of a normaliser: `layer`, `balance`, or `snip`, which normalises nothing (tables 4 and 8).

        Raises:
            InputError: another name.
        """
        if name not in NORMALISERS:
            raise InputError(f"[saliency] expected a normaliser of {', '.join(NORMALISERS)}, got {name!r}")
        return getattr(self, name)


def random_images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Normal noise with ImageNet's mean and deviation per channel, `[count, 3, side, side]`."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return noise * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def read_layers(net: AutoFormer, gradients: Mapping[torch.Tensor, torch.Tensor]) -> Saliency:
    """Scores of an AutoFormer's architectures, from the gradients of the largest subnet by parameter.

    Raises:
        InputError: a layer without any score (all weights zero).
    """
    boxes = _Boxes(gradients)
    cells = net.space.blocks[0]
    choices = _Choices(cells)
    snip = [_layer_scores(boxes, layer, choices) for layer in net.transformer]
    balance = [_balance_scores(boxes, layer, choices) for layer in net.transformer]
    largest = np.array([scores[-1, -1, -1] for scores in snip])
    if not (largest > 0).all():
        layer = int(np.flatnonzero(~(largest > 0))[0])
        raise InputError(f"[saliency] expected a score above 0 in every layer, got {largest[layer]} in layer {layer}; "
                         "are all its weights zero?")  # fmt: skip
    normalised = [scores / whole for scores, whole in zip(snip, largest)]
    fixed = _fixed_scores(boxes, net, choices.dims)
    ends = [float(fixed[choices.dims.index(cell.layers[0][0].dim)]) for cell in cells]
    zeros = [0.0] * len(cells)
    return Saliency(
        LayerTable(ends, [choices.table(cell, snip) for cell in cells]),
        LayerTable(zeros, [choices.table(cell, normalised) for cell in cells]),
        LayerTable(zeros, [choices.table(cell, balance) for cell in cells]),
    )


def gradients(
    net: Any,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    chunk: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[torch.Tensor, torch.Tensor]:
    """Gradients of the largest subnet, summed over the images; the net's `.grad` and mode stay as they were.

    Batch norm uses the statistics of each chunk, as in training. With the stored ones of a fresh net, the features would
    vanish from layer to layer, and so would all scores but the classifier's.

    Raises:
        InputError: gradients that are not finite.
    """
    device = device_of(net)
    parameters = list(net.parameters())
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    with batch_statistics(net), torch.enable_grad():
        for start in range(0, len(images), chunk):
            outputs = net(images[start : start + chunk].to(device), largest(net))
            if labels is None:
                loss = outputs.sum()
            else:
                loss = F.cross_entropy(outputs, labels[start : start + chunk].to(device), reduction="sum")
            for total, gradient in zip(totals, torch.autograd.grad(loss, parameters)):
                total += gradient
            if progress is not None:
                progress(min(start + chunk, len(images)), len(images))
    if not all(bool(total.isfinite().all()) for total in totals):
        raise InputError("[saliency] expected finite gradients, got NaN or infinity: are weights or images not finite?")
    return dict(zip(parameters, totals))


def largest(net: Any) -> Architecture:
    """Largest architecture: the last cell of every block with the last candidate of every layer."""
    return Architecture.of((len(cells) - 1, [count - 1 for count in cells[-1].counts]) for cells in net.space.blocks)


class _Choices:
    """Dimensions, heads and MLP ratios of a space; a layer's scores are an array `[dims, heads, ratios]`."""

    def __init__(self, cells: Sequence[Cell]):
        specs = {spec for cell in cells for spec in cell.layers[0]}
        self.dims = sorted({spec.dim for spec in specs})
        self.heads = sorted({spec.heads for spec in specs})
        self.ratios = sorted({spec.ratio for spec in specs})

    def table(self, cell: Cell, scores: list[np.ndarray]) -> np.ndarray:
        """Scores of a cell, `[L, candidates]`, from every layer's array."""
        dim = self.dims.index(cell.layers[0][0].dim)
        heads = [self.heads.index(spec.heads) for spec in cell.layers[0]]
        ratios = [self.ratios.index(spec.ratio) for spec in cell.layers[0]]
        return np.array([layer[dim, heads, ratios] for layer in scores[: len(cell.layers)]])

    def hidden(self, dim: int) -> list[int]:
        """Features inside the MLP at a dimension, for each ratio."""
        return [int(dim * ratio) for ratio in self.ratios]


class _Boxes:
    """Sums of |g * w| over the leading slices of parameters."""

    def __init__(self, gradients: Mapping[torch.Tensor, torch.Tensor]):
        self.gradients = gradients

    def matrix(self, weight: torch.Tensor, rows: Sequence[int], cols: Sequence[int]) -> np.ndarray:
        """Sums for the leading rows and columns of a weight, `[len(rows), len(cols)]`; axes after the first are flattened."""
        return self._sums(weight, (len(weight), -1), rows, cols)

    def vector(self, weight: torch.Tensor, sizes: Sequence[int]) -> np.ndarray:
        """Sums for the leading entries of a weight's last axis, `[len(sizes)]`."""
        width = weight.shape[-1]
        return self._sums(weight, (-1, width), [weight.numel() // width], sizes)[0]

    def _sums(
        self, weight: torch.Tensor, shape: tuple[int, int], rows: Sequence[int], cols: Sequence[int]
    ) -> np.ndarray:
        gradient = self.gradients[weight].reshape(shape)
        return saliency_boxes(weight.detach().reshape(shape), gradient, rows, cols).cpu().numpy()


def _layer_scores(boxes: _Boxes, layer: Any, choices: _Choices) -> np.ndarray:
    """Sum of |g * w| over all parameters of each subnet of a layer, `[dims, heads, ratios]`."""
    attention, mlp = layer.attention, layer.mlp
    dims, inner = choices.dims, [h * attention.head_dim for h in choices.heads]
    always = sum(boxes.vector(parameter, dims) for norm in (layer.norm_attention, layer.norm_mlp)
                 for parameter in norm.parameters())  # fmt: skip
    always = always + boxes.vector(attention.project.bias, dims) + boxes.vector(mlp.fc2.bias, dims)
    always = always + sum(boxes.vector(table, [attention.head_dim])[0]
                          for position in (attention.position_key, attention.position_value)
                          for table in position.parameters())  # fmt: skip
    triple = [3 * size for size in inner]
    heads = boxes.matrix(attention.qkv.weight, triple, dims).T + boxes.vector(attention.qkv.bias, triple)
    heads = heads + boxes.matrix(attention.project.weight, dims, inner)
    first, second = _mlp_boxes(boxes, mlp, choices)
    hidden = np.array([boxes.vector(mlp.fc1.bias, choices.hidden(dim)) for dim in dims])
    return always[:, None, None] + heads[:, :, None] + (first + second + hidden)[:, None, :]


def _mlp_boxes(boxes: _Boxes, mlp: Any, choices: _Choices) -> tuple[np.ndarray, np.ndarray]:
    """Sums for the two weights of an MLP, `[dims, ratios]` each."""
    sizes = sorted({size for dim in choices.dims for size in choices.hidden(dim)})
    first = boxes.matrix(mlp.fc1.weight, sizes, choices.dims).T
    second = boxes.matrix(mlp.fc2.weight, choices.dims, sizes)
    places = [[sizes.index(size) for size in choices.hidden(dim)] for dim in choices.dims]
    rows = np.arange(len(choices.dims))[:, None]
    return first[rows, places], second[rows, places]


def _balance_scores(boxes: _Boxes, layer: Any, choices: _Choices) -> np.ndarray:
    """Scores of the released code's variant, `[dims, heads, ratios]`; equal at every dimension."""
    attention, mlp = layer.attention, layer.mlp
    triple = [3 * h * attention.head_dim for h in choices.heads]
    heads = boxes.matrix(attention.qkv.weight, triple, choices.dims[-1:])[:, 0] / _size(boxes, attention.qkv.weight)
    first, second = (scores[-1] / _size(boxes, part.weight)
                     for scores, part in zip(_mlp_boxes(boxes, mlp, choices), (mlp.fc1, mlp.fc2)))  # fmt: skip
    scores = heads[:, None] + (first + second)[None]
    return np.broadcast_to(scores, (len(choices.dims), *scores.shape))


def _size(boxes: _Boxes, weight: torch.Tensor) -> float:
    """Product of sum |w| and sum |g|; 1 where it is 0."""
    product = weight.detach().abs().double().sum() * boxes.gradients[weight].abs().double().sum()
    return float(product) or 1.0


def _fixed_scores(boxes: _Boxes, net: AutoFormer, dims: list[int]) -> np.ndarray:
    """Sum of |g * w| over the parameters of stem and head at each dimension, `[dims]`."""
    stem, head = cast(Any, net.stem.weights), cast(Any, net.head.weights)
    total = boxes.matrix(stem.conv.weight, dims, [stem.conv.weight[0].numel()])[:, 0]
    for parameter in (stem.conv.bias, stem.class_token, stem.position, *head.norm.parameters(), head.classifier.weight):
        total = total + boxes.vector(parameter, dims)
    return total + boxes.vector(head.classifier.bias, [head.classifier.out_features])[0]
