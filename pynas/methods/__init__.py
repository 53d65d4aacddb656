"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from pynas.methods.dna import DNA
from pynas.methods.method import Method
from pynas.methods.prenas import PreNAS

METHODS: dict[str, type] = {"dna": DNA}

__all__ = ["DNA", "METHODS", "Method", "PreNAS"]
