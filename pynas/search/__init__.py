"""Exact search over score tables under cost limits."""

from pynas.search.best import Entry, Found, States, best
from pynas.search.certificate import Certificate
from pynas.search.traverse import Traversal, traverse

__all__ = ["Certificate", "Entry", "Found", "States", "Traversal", "best", "traverse"]
