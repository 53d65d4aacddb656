"""From a space to its supernet: one registry with a line per kind of space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynas.errors import InputError
from pynas.spaces import Space, get
from pynas.supernets.autoformer import AutoFormer
from pynas.supernets.bignas import BigNAS
from pynas.supernets.hytra import hytra_supernet
from pynas.supernets.mbconv import from_candidates
from pynas.supernets.nasbench201 import CellNet
from pynas.supernets.nats_size import nats_size
from pynas.supernets.net import Net
from pynas.supernets.splitattention import split_attention_net
from pynas.supernets.vit_dna import vit_net


@dataclass(frozen=True)
class Kind:
    """A kind of space.

    build: called with a space of the kind and the number of classes, returns its supernet with fresh weights.
    own_weights: whether every candidate has weights of its own, so that one network can be built without the others.
    on_meta: whether the supernet consists of torch's own layers, whose `reset_parameters` sets all values: it can be built
        on the meta device, and a network extracted before anything takes memory.
    shares_slices: whether the architectures are slices of one largest network (PreNAS trains such supernets).
    dense_costs: whether the cells have few enough paths for dense cost tables.
    has_blocks: whether the supernet is a sequence of blocks with maps between them, which a teacher's features can supervise.
    """

    build: Callable[[Space, int], Net]
    own_weights: bool = False
    on_meta: bool = False
    shares_slices: bool = False
    dense_costs: bool = True
    has_blocks: bool = True


# By `Space.kind`. A space of your own kind adds its line here.
KINDS: dict[str, Kind] = {
    "mbconv": Kind(from_candidates, own_weights=True),
    "hytra": Kind(hytra_supernet, on_meta=True),
    "nats-size": Kind(nats_size),
    "nasbench201": Kind(CellNet, own_weights=True, has_blocks=False),
    "splitattention": Kind(split_attention_net),
    "vit": Kind(vit_net),
    "autoformer": Kind(AutoFormer, shares_slices=True, dense_costs=False, has_blocks=False),
    "bignas": Kind(BigNAS, shares_slices=True, has_blocks=False),
}
_OTHER = Kind(lambda space, num_classes: _no_builder(space))


def kind_of(space: Space) -> Kind:
    """Return the registry's line of a space's kind; for unknown kinds one with the defaults, without a builder."""
    return KINDS.get(space.kind, _OTHER)


def check_blocks(space: Space) -> None:
    """Raise InputError for a space whose supernets have no blocks that a teacher can supervise."""
    if not kind_of(space).has_blocks:
        raise InputError(f"[supernet] expected a space of blocks that a teacher can supervise, got {space.name}, whose networks "
                         "are trained as a whole; use spos, or prenas for AutoFormer's and BigNAS's spaces")  # fmt: skip


def _no_builder(space: Space) -> Net:
    raise InputError(f"[supernet] expected a space of the kinds {', '.join(KINDS)}, got {space.name} of the kind "
                     f"{space.kind!r}; add a line to pynas.supernets.KINDS")  # fmt: skip


def supernet(space: str | Space, num_classes: int = 1000) -> Any:
    """Build the supernet of a space, by name or description, with fresh weights from torch's generator.

    Returns an `nn.Module` with the members of `Net`.

    Raises:
        InputError: an unknown name, a space of a kind without a builder, or fewer than one class.
    """
    if isinstance(space, str):
        space = get(space)
    if num_classes < 1:
        raise InputError(f"[supernet] expected at least one class, got {num_classes}")
    return kind_of(space).build(space, num_classes)
