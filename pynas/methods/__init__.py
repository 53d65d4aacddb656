"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from pynas.methods.dna import DNA
from pynas.methods.dna_pp import DNAPlusPlus
from pynas.methods.method import Method

METHODS: dict[str, type] = {"dna": DNA, "dna-pp": DNAPlusPlus}

__all__ = ["DNA", "METHODS", "DNAPlusPlus", "Method"]
