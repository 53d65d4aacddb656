"""ZiCo (Li et al., ICLR 2023): how large and how steady gradients are over batches."""

from __future__ import annotations

import math

import torch
from torch import nn

from pynas.errors import InputError
from pynas.supernets.modes import batch_statistics
from pynas.zero_cost.passes import layers, loss

BATCHES = 2


def zico(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """sum over layers of log(sum over weights of E|g| / std g), over the gradients of the halves of the images.

    Layers are convolutions and linear layers. A weight whose gradient is the same in both halves counts nothing, nor does
    a layer of such weights alone. Batch norm uses the statistics of each half, as in training.

    Raises:
        InputError: fewer than two images.
    """
    if len(images) < BATCHES:
        raise InputError(
            f"[proxy] expected at least {BATCHES} images for zico, which compares gradients, got {len(images)}"
        )
    weights = [layer.weight for layer in layers(model) if layer.weight.requires_grad]
    half = len(images) // BATCHES
    with batch_statistics(model):
        gradients = [
            torch.autograd.grad(loss(model, images[at : at + half], None if labels is None else labels[at : at + half]),
                                weights, materialize_grads=True)
            for at in range(0, half * BATCHES, half)
        ]  # fmt: skip
    ratios = [_ratio(torch.stack(batches)) for batches in zip(*gradients)]
    if any(math.isnan(ratio) for ratio in ratios):
        return math.nan
    return sum(math.log(ratio) for ratio in ratios if ratio) if any(ratios) else -math.inf


def _ratio(gradients: torch.Tensor) -> float:
    """Sum of E|g| / std g over a layer's weights; gradients: `[batches, ...]`."""
    deviation = gradients.std(0, correction=0)
    # NaN stays in the sum.
    return (gradients.abs().mean(0) / deviation)[deviation != 0].sum().item()
