"""Exact search over score tables under cost limits."""

from pynas.search.best import Entry, Found, best
from pynas.search.certificate import Certificate
from pynas.search.traverse import Traversal, traverse

__all__ = ["Certificate", "Entry", "Found", "Traversal", "best", "traverse"]
