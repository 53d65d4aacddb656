"""Search spaces: what may be chosen, in plain Python, without weights and without torch."""

import difflib
from collections.abc import Callable

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture, Choice
from pynas.spaces.mbconv import mbconv, mbconv_boss, mbconv_dna, mbconv_mini
from pynas.spaces.space import Cell, Notation, Space
from pynas.spaces.vit_dna import vit, vit_dna, vit_mini

SPACES: dict[str, Callable[[], Space]] = {
    "mbconv-dna": mbconv_dna,
    "mbconv-boss": mbconv_boss,
    "mbconv-mini": mbconv_mini,
    "vit-dna": vit_dna,
    "vit-mini": vit_mini,
}


def get(name: str) -> Space:
    """The named space.

    Raises:
        InputError: no such name; the message lists the names.
    """
    if name not in SPACES:
        near = difflib.get_close_matches(name, SPACES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"[spaces] expected one of {', '.join(SPACES)}, got {name!r}{hint}")
    return SPACES[name]()


__all__ = ["SPACES", "Architecture", "Cell", "Choice", "Notation", "Space", "get", "mbconv", "mbconv_boss", "mbconv_dna",
           "mbconv_mini", "vit", "vit_dna", "vit_mini"]  # fmt: skip
