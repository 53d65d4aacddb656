"""Methods: how a supernet's blocks are trained and what their paths are scored by."""

from collections.abc import Callable
from typing import Any

from pynas.methods.dna import DNA
from pynas.methods.linear_evaluation import LinearEvaluation
from pynas.methods.method import Method
from pynas.methods.one_shot import OneShot, fairnas, spos
from pynas.methods.pinas import PiNAS

METHODS: dict[str, Callable[..., Any]] = {"dna": DNA, "pinas": PiNAS, "spos": spos, "fairnas": fairnas}

__all__ = ["DNA", "METHODS", "LinearEvaluation", "Method", "OneShot", "PiNAS", "fairnas", "spos"]
