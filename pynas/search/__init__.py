"""Exact search over score tables under cost limits."""

from pynas.search.best import Entry, Found, States, best
from pynas.search.certificate import Certificate
from pynas.search.traverse import Traversal, traverse
from pynas.search.verify import VerificationError

__all__ = ["Certificate", "Entry", "Found", "States", "Traversal", "VerificationError", "best", "traverse"]
