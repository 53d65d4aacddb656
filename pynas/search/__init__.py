"""Exact search over score tables under cost limits."""

from pynas.search.best import Entry, Found, States, best, states_of
from pynas.search.certificate import Certificate
from pynas.search.front import Front, front
from pynas.search.pareto import ParetoFront, pareto
from pynas.search.traverse import Traversal, traverse
from pynas.search.verify import VerificationError

__all__ = [
    "Certificate",
    "Entry",
    "Found",
    "Front",
    "ParetoFront",
    "States",
    "Traversal",
    "VerificationError",
    "best",
    "front",
    "pareto",
    "states_of",
    "traverse",
]
