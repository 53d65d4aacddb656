"""The recipes of the methods, by name: the one registry that Python users, the commands and the docs read."""

from pynas.errors import InputError
from pynas.methods import fairnas, spos
from pynas.runs.recipe import Recipe
from pynas.runs.recipes.bossnas import BossNASRecipe
from pynas.runs.recipes.dna import DNARecipe
from pynas.runs.recipes.dna_plus import DNAPlusRecipe
from pynas.runs.recipes.dna_plus_plus import DNA_PLUS_PLUS
from pynas.runs.recipes.one_shot import FAIRNAS, SPOS, OneShotRecipe
from pynas.runs.recipes.paths import PathRecipe
from pynas.runs.recipes.pinas import PiNASRecipe
from pynas.runs.recipes.prenas import PreNASRecipe
from pynas.spaces import get
from pynas.supernets.build import kind_of

METHODS: dict[str, Recipe] = {
    "dna": DNARecipe(),
    "dna-plus": DNAPlusRecipe(),
    "dna-pp": DNA_PLUS_PLUS,
    "bossnas": BossNASRecipe(),
    "pinas": PiNASRecipe(),
    "spos": OneShotRecipe(spos, SPOS),
    "fairnas": OneShotRecipe(fairnas, FAIRNAS),
    "prenas": PreNASRecipe(),
}
# The baselines in spaces whose architectures are slices of one largest net, as AutoFormer's and BigNAS's.
_OF_SLICES: dict[str, Recipe] = {"spos": PreNASRecipe("spos"), "fairnas": PreNASRecipe("fairnas")}


def recipe_of(method: str, space: str | None = None) -> Recipe:
    """Return the recipe of a method in a space; None: in the method's own default space.

    Raises:
        InputError: no such method or space; the message lists the names.
    """
    if method not in METHODS:
        raise InputError(f"[run] expected a method of {', '.join(METHODS)}, got {method!r}")
    if method in _OF_SLICES and space is not None and kind_of(get(space)).shares_slices:
        return _OF_SLICES[method]
    return METHODS[method]


__all__ = ["METHODS", "PathRecipe", "recipe_of"]
