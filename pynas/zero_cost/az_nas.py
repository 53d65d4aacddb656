"""AZ-NAS's measures of the features between blocks (Lee and Ham, CVPR 2024); their aggregate is in `aggregate`.

As in the paper, the images are noise from a standard normal: of the images given only the shape counts. Batch norm uses the
statistics of the batch, as in training.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from pynas.supernets.modes import batch_statistics
from pynas.zero_cost.blocks import block_features, flat, paired


def measures(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Expressivity, progressivity and trainability by name, from one forward pass.

    Raises:
        InputError: a network of fewer than two features, see `block_features`.
    """
    with batch_statistics(model):
        features = block_features(model, torch.randn_like(images))
    entropies = [_entropy(feature.detach()) for feature in features]
    rises = [after - before for before, after in pairwise(entropies)]
    scores = [_gradient_score(*pair) for pair in pairwise(features)]
    return {"expressivity": sum(entropies), "progressivity": min(rises, key=_nan_first),
            "trainability": sum(scores) / len(scores)}  # fmt: skip


def expressivity(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Sum over the features of the entropy of their principal components' shares of the variance."""
    return measures(model, images)["expressivity"]


def progressivity(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Least rise of that entropy from one feature to the next."""
    return measures(model, images)["progressivity"]


def trainability(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Mean over the blocks of 2 - s - 1 / s, whose highest value 0 is at s = 1.

    s: spectral norm of the mean over images and positions of g_in g_out^T, where g_in is the gradient that a block passes
    on when it gets random signs g_out. A block that passes the signs on as they are, an identity, has -infinity.
    """
    return measures(model, images)["trainability"]


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _entropy(feature: torch.Tensor) -> float:
    """Entropy of the eigenvalues of a feature's covariance over images and positions, as shares; NaN of a constant one."""
    rows = flat(feature).flatten(0, 1)
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    if not covariance.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)  # rounding leaves some below 0
    shares = values / values.sum()
    return -(shares * (shares + 1e-8).log()).sum().item()


def _gradient_score(before: torch.Tensor, after: torch.Tensor) -> float:
    signs = torch.randint(0, 2, after.shape, device=after.device).to(after.dtype) * 2 - 1
    if not (before.requires_grad and after.requires_grad):  # a constant: nothing passes
        gradient = torch.zeros_like(before)
    else:
        (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True, materialize_grads=True)
    if not gradient.isfinite().all():
        return math.nan
    if gradient.shape == signs.shape and bool((gradient == signs).all()):
        return -math.inf
    passed, given = paired(gradient, signs)
    norm = torch.linalg.matrix_norm(torch.einsum("bpi,bpo->io", passed, given) / given[..., 0].numel(), 2).item()
    return 2 - norm - 1 / (norm + 1e-6)
