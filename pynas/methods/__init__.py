"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from collections.abc import Callable
from typing import Any

from pynas.methods.bossnas.bossnas import BossNAS
from pynas.methods.bossnas.fit_blocks import BlockStep, fit_blocks
from pynas.methods.bossnas.rating import PathRating
from pynas.methods.dna.block_weights import BlockWeights, fit_block_weights
from pynas.methods.dna.dna import DNA
from pynas.methods.dna.plus import DNAPlus
from pynas.methods.dna.plus_plus import DNAPlusPlus
from pynas.methods.whole.linear_evaluation import LinearEvaluation
from pynas.methods.whole.one_shot import OneShot, fairnas, spos
from pynas.methods.whole.pinas import PiNAS
from pynas.methods.whole.prenas import PreNAS

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
    "BlockStep",
    "BlockWeights",
    "BossNAS",
    "DNAPlus",
    "DNAPlusPlus",
    "LinearEvaluation",
    "OneShot",
    "PathRating",
    "PiNAS",
    "PreNAS",
    "fairnas",
    "fit_block_weights",
    "fit_blocks",
    "spos",
]
