"""Search spaces: descriptions of all choices, in plain Python, without weights and without torch."""

import difflib
from collections.abc import Callable
from functools import partial

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice
from pynas.spaces.autoformer import autoformer, autoformer_base, autoformer_mini, autoformer_small, autoformer_tiny
from pynas.spaces.bignas import bignas, bignas_cnn, bignas_mini
from pynas.spaces.cell import Cell
from pynas.spaces.hytra import hytra, hytra_mini
from pynas.spaces.mbconv import mbconv, mbconv_boss, mbconv_dna, mbconv_mini
from pynas.spaces.nasbench201 import nasbench201, nasbench201_3, nasbench201_mini
from pynas.spaces.nats_size import nats_size, nats_size_cifar100
from pynas.spaces.space import Notation, Space
from pynas.spaces.splitattention import splitattention, splitattention_mini, splitattention_unshared
from pynas.spaces.vit_dna import vit, vit_dna, vit_mini

SPACES: dict[str, Callable[[], Space]] = {
    "mbconv-dna": mbconv_dna,
    "mbconv-boss": mbconv_boss,
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
    if name not in SPACES:
        near = difflib.get_close_matches(name, SPACES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"[spaces] expected one of {', '.join(SPACES)}, got {name!r}{hint}")
    return SPACES[name]()


__all__ = [
    "SPACES",
    "Architecture",
    "Cell",
    "Choice",
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
    "mbconv_mini",
    "nasbench201",
    "nats_size",
    "nats_size_cifar100",
    "splitattention",
    "vit",
    "vit_dna",
    "vit_mini",
]
