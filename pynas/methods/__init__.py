"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from pynas.methods.block_weights import BlockWeights, fit_block_weights
from pynas.methods.dna import DNA
from pynas.methods.dna_plus import DNAPlus
from pynas.methods.method import Method

METHODS: dict[str, type] = {"dna": DNA, "dna-plus": DNAPlus}

__all__ = ["DNA", "METHODS", "BlockWeights", "DNAPlus", "Method", "fit_block_weights"]
