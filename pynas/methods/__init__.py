"""Methods: how supernets are trained and their paths are scored."""

from pynas.methods.bossnas.bossnas import BossNAS
from pynas.methods.bossnas.fit_blocks import BlockStep, fit_blocks
from pynas.methods.bossnas.options import Bootstrap, Heads, Optimization
from pynas.methods.bossnas.rating import PathRating
from pynas.methods.dna.block_weights import BlockWeights, fit_block_weights
from pynas.methods.dna.dna import DNA
from pynas.methods.dna.plus import DNAPlus
from pynas.methods.dna.plus_plus import DNAPlusPlus
from pynas.methods.dna.progressive import ProgressiveDNA
from pynas.methods.whole.linear_evaluation import LinearEvaluation
from pynas.methods.whole.one_shot import OneShot, fairnas, spos
from pynas.methods.whole.pinas import PiNAS
from pynas.methods.whole.prenas import PreNAS

__all__ = [
    "DNA",
    "BlockStep",
    "BlockWeights",
    "Bootstrap",
    "BossNAS",
    "DNAPlus",
    "DNAPlusPlus",
    "Heads",
    "LinearEvaluation",
    "OneShot",
    "Optimization",
    "PathRating",
    "PiNAS",
    "PreNAS",
    "ProgressiveDNA",
    "fairnas",
    "fit_block_weights",
    "fit_blocks",
    "spos",
]
