"""Consistency of a supernet: similarity of the features of different paths, which Pi-NAS trains for (section 4.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pynas.errors import InputError
from pynas.spaces import Architecture, Space
from pynas.supernets.modes import batch_statistics, device_of


@torch.no_grad()
def path_similarity(
    net: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    architectures: Sequence[Architecture],
    centred: bool = False,
) -> np.ndarray:
    """Cosine similarity of the features of each pair of paths, mean over the images: float64 `[P, P]`.

    Batch norm normalises by the batch.
    centred: subtract each path's mean over the batch first. Without it, features that do not depend on the image are similar,
    and a collapsed supernet appears consistent.

    Raises:
        InputError: no images.
    """
    device = device_of(net)
    total, count = torch.zeros(len(architectures), len(architectures), dtype=torch.float64, device=device), 0
    with batch_statistics(net):
        for images, _ in batches:
            images = images.to(device)
            features = torch.stack([net.features(images, architecture) for architecture in architectures]).double()
            if centred:
                features = features - features.mean(1, keepdim=True)
            unit = functional.normalize(features, dim=2)
            total += torch.einsum("pbd,qbd->pq", unit, unit)
            count += len(images)
    if count == 0:
        raise InputError("[consistency] expected images, got none")
    return (total / count).cpu().numpy()


def consistency(similarity: np.ndarray) -> float:
    """Mean similarity of different paths, from the matrix of `path_similarity`."""
    return float(similarity[~np.eye(len(similarity), dtype=bool)].mean())


def last_layer_paths(space: Space, rng: np.random.Generator) -> list[Architecture]:
    """Draw one architecture for each candidate 0, 1, 2, ... of the last layer, as for Pi-NAS's figure 5.

    Raises:
        InputError: a space whose rules forbid one of them.
    """
    drawn: list[Architecture] = []
    while not drawn or len(drawn) < space.blocks[-1][drawn[0][-1].cell].counts[-1]:
        architecture = space.sample(rng)
        *before, last = architecture
        cell = drawn[0][-1].cell if drawn else last.cell
        if last.cell != cell:
            continue
        choices = [*before, type(last)(cell, (*last.path[:-1], len(drawn)))]
        drawn.append(Architecture(tuple(choices)))
        space.check(drawn[-1])
    return drawn
