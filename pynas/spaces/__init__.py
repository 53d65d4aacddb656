"""Search spaces: descriptions of all choices, in plain Python, without weights and without torch."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice
from pynas.spaces.autoformer import autoformer, autoformer_base, autoformer_mini, autoformer_small, autoformer_tiny
from pynas.spaces.bignas import bignas, bignas_cnn, bignas_mini
from pynas.spaces.cell import Cell
from pynas.spaces.hytra import hytra, hytra_mini
from pynas.spaces.mbconv import mbconv, mbconv_boss, mbconv_dna, mbconv_dna_single, mbconv_mini
from pynas.spaces.nasbench201 import nasbench201, nasbench201_3, nasbench201_mini
from pynas.spaces.nats_size import nats_size, nats_size_cifar100
from pynas.spaces.networks import NETWORKS, Network
from pynas.spaces.space import Notation, Space
from pynas.spaces.splitattention import splitattention, splitattention_mini, splitattention_unshared
from pynas.spaces.vit_dna import vit, vit_dna, vit_mini

T = TypeVar("T")

SPACES: dict[str, Callable[[], Space]] = {
    "mbconv-dna": mbconv_dna,
    "mbconv-dna-single": mbconv_dna_single,
    "mbconv-dna-a": partial(mbconv_dna_single, "mbconv-dna-a", (3, 4, 4, 4, 5, 1), (24, 40, 80, 96, 160, 320)),
    "mbconv-dna-b": partial(mbconv_dna_single, "mbconv-dna-b", (3, 3, 4, 4, 5, 1), (24, 40, 80, 96, 192, 320)),
    "mbconv-dna-d": partial(mbconv_dna_single, "mbconv-dna-d", (3, 4, 4, 4, 5, 1)),
    "mbconv-boss": mbconv_boss,
    "mbconv-boss-no-se": partial(mbconv_boss, "mbconv-boss-no-se", 0.0),
    "mbconv-mini": mbconv_mini,
    "hytra": hytra,
    "hytra-se": partial(hytra, se=True),
    "hytra-s1": partial(hytra, last_stride=1),
    "hytra-se-s1": partial(hytra, se=True, last_stride=1),
    "hytra-mini": hytra_mini,
    "nats-size": nats_size,
    "nats-size-cifar100": nats_size_cifar100,
    "autoformer-tiny": autoformer_tiny,
    "autoformer-small": autoformer_small,
    "autoformer-base": autoformer_base,
    "autoformer-mini": autoformer_mini,
    "bignas-cnn": bignas_cnn,
    "bignas-mini": bignas_mini,
    "nasbench201": nasbench201,
    "nasbench201-3": nasbench201_3,
    "nasbench201-mini": nasbench201_mini,
    "splitattention": splitattention,
    "splitattention-unshared": splitattention_unshared,
    "splitattention-mini": splitattention_mini,
    "vit-dna": vit_dna,
    "vit-mini": vit_mini,
}


def get(name: str) -> Space:
    """Return the space of a name.

    Raises:
        InputError: an unknown name; the message lists the names.
    """
    return _known(name, SPACES)()


def network(name: str, space: str | None = None) -> tuple[Space, Architecture]:
    """Return a published architecture and its space, from the names in `NETWORKS`.

    The network itself, with fresh weights: `pynas.export.standalone(*pynas.spaces.network("DNA-c"), num_classes=1000)`.

    space: one of the spaces that read the name; None for that of the published figures. BossNet-T0 is in "hytra-se", and
        "hytra" has it without squeeze-excitation.

    Raises:
        InputError: an unknown name, the message lists the names; or a space that does not read it.
    """
    known = _known(name, NETWORKS)
    found = get(space or known.spaces[0])
    return found, found.parse(name)


def _known(name: str, registry: Mapping[str, T]) -> T:
    """Return the entry of a name."""
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"[spaces] expected one of {', '.join(registry)}, got {name!r}{hint}")
    return registry[name]


__all__ = [
    "NETWORKS",
    "SPACES",
    "Architecture",
    "Cell",
    "Choice",
    "Network",
    "Notation",
    "Space",
    "autoformer",
    "autoformer_base",
    "autoformer_mini",
    "autoformer_small",
    "autoformer_tiny",
    "bignas",
    "bignas_cnn",
    "get",
    "hytra",
    "hytra_mini",
    "mbconv",
    "mbconv_boss",
    "mbconv_dna",
    "mbconv_dna_single",
    "mbconv_mini",
    "nasbench201",
    "nats_size",
    "nats_size_cifar100",
    "network",
    "splitattention",
    "vit",
    "vit_dna",
    "vit_mini",
]
