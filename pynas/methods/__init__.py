"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from pynas.methods.block_weights import BlockWeights, fit_block_weights
from pynas.methods.bossnas import BossNAS
from pynas.methods.dna import DNA
from pynas.methods.dna_pp import DNAPlusPlus
from pynas.methods.method import Method
from pynas.methods.path_rating import PathRating

METHODS: dict[str, type] = {"bossnas": BossNAS, "dna": DNA}

__all__ = [
    "DNA",
    "METHODS",
    "BlockWeights",
    "BossNAS",
    "DNAPlusPlus",
    "Method",
    "PathRating",
    "fit_block_weights",
]
METHODS: dict[str, type] = {"dna": DNA, "dna-pp": DNAPlusPlus}
