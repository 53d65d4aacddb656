"""Scores of every subnet of a supernet that shares slices, by kind of space, from the gradients of the largest subnet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pynas.errors import InputError
from pynas.zero_cost.saliency import gradients, read_layers
from pynas.zero_cost.slices import read_slices

# By `Space.kind`: called with a net and the gradients by parameter, returns the scores of all architectures.
READERS: dict[str, Callable[[Any, Mapping[torch.Tensor, torch.Tensor]], Any]] = {
    "autoformer": read_layers,
    "bignas": read_slices,
}


def check_space(net: Any) -> None:
    """Raise InputError unless preferred architectures can be selected from a net's space."""
    if net.space.kind not in READERS:
        raise InputError(f"[select] expected a space of AutoFormer or BigNAS, got {net.space.name}")


def read_scores(net: Any, gradients: Mapping[torch.Tensor, torch.Tensor]) -> Any:
    """Scores as `saliency` returns them, from the gradients of the largest subnet by parameter.

    Raises:
        InputError: a space of another kind, or a layer without any score (all weights zero).
    """
    check_space(net)
    return READERS[net.space.kind](net, gradients)


def saliency(
    net: Any,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    chunk: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Run the largest subnet forward and backward, and sum every subnet's scores over its slices of the gradients.

    Returns a `Saliency` for an AutoFormer, `Costs` with the table `snip` for a BigNAS; `select` takes either.
    labels: None for the sum of the outputs as the loss (data-free), else cross-entropy summed over the images.
    chunk: number of images per pass; gradients add up over the passes, so that without batch norm only the memory depends
        on it.
    progress: called with (images done, images).

    Raises:
        InputError: a space of another kind, gradients that are not finite, or a layer without any score (all weights zero).
    """
    check_space(net)
    return read_scores(net, gradients(net, images, labels, chunk=chunk, progress=progress))
