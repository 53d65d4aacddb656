"""The kinds of supernets that preferred architectures can be selected from, and what the selection needs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pynas.costs import Costs, LayerCosts, count, count_layers, latency, layer_latency
from pynas.errors import InputError
from pynas.supernets import AutoFormer, BigNAS
from pynas.zero_cost.saliency import gradients, read_layers
from pynas.zero_cost.slices import read_slices


@dataclass(frozen=True)
class Kind:
    """read(net, gradients): the scores of all architectures; count(net, image_shape), latency(net, image_shape, device):
    their costs; load(path): costs from a file.
    """

    read: Callable[..., Any]
    count: Callable[..., Any]
    latency: Callable[..., Any]
    load: Callable[..., Any]


KINDS: dict[type, Kind] = {
    AutoFormer: Kind(read_layers, count_layers, layer_latency, LayerCosts.load),
    BigNAS: Kind(read_slices, count, latency, Costs.load),
}


def kind_of(net: Any) -> Kind:
    """What the selection needs of a net.

    Raises:
        InputError: a net of a space of another kind.
    """
    if type(net) not in KINDS:
        raise InputError(f"[select] expected a space of {' or '.join(kind.__name__ for kind in KINDS)}, got "
                         f"{net.space.name}")  # fmt: skip
    return KINDS[type(net)]


def read_scores(net: Any, gradients: Mapping[torch.Tensor, torch.Tensor]) -> Any:
    """What `saliency` gives, from the gradients of the largest subnet by parameter."""
    return kind_of(net).read(net, gradients)


def saliency(
    net: Any,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    chunk: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Run the largest subnet forward and backward, and read every subnet's scores off prefix boxes.

    A `Saliency` of an AutoFormer, the tables `snip` (`Costs`) of a BigNAS; `select` takes either.
    labels: None for the sum of the outputs as the loss (data-free), else cross-entropy summed over the images.
    chunk: images at a time; gradients add up, so that without batch norm only the memory depends on it. progress: called
    with (images done, images).

    Raises:
        InputError: another supernet, gradients that are not finite, or a layer without any score (all weights zero).
    """
    return read_scores(net, gradients(net, images, labels, chunk=chunk, progress=progress))
