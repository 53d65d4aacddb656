"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from collections.abc import Callable
from typing import Any

from pynas.methods.block_weights import BlockWeights, fit_block_weights
from pynas.methods.bossnas import BossNAS
from pynas.methods.dna import DNA
from pynas.methods.dna_plus import DNAPlus
from pynas.methods.dna_pp import DNAPlusPlus
from pynas.methods.linear_evaluation import LinearEvaluation
from pynas.methods.method import Method
from pynas.methods.one_shot import OneShot, fairnas, spos
from pynas.methods.path_rating import PathRating
from pynas.methods.pinas import PiNAS
from pynas.methods.prenas import PreNAS

METHODS: dict[str, Callable[..., Any]] = {
    "dna": DNA,
    "dna-plus": DNAPlus,
    "dna-pp": DNAPlusPlus,
    "bossnas": BossNAS,
    "pinas": PiNAS,
    "prenas": PreNAS,
    "spos": spos,
    "fairnas": fairnas,
}

__all__ = [
    "DNA",
    "METHODS",
    "BlockWeights",
    "BossNAS",
    "DNAPlus",
    "DNAPlusPlus",
    "LinearEvaluation",
    "Method",
    "OneShot",
    "PathRating",
    "PiNAS",
    "PreNAS",
    "fairnas",
    "fit_block_weights",
    "spos",
]
