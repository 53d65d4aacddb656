"""pynas: block-wise weight-sharing neural architecture search. Rate every path, find the provably best architecture."""

from pynas._version import __version__
from pynas.errors import InfeasibleError, InputError

__all__ = ["InfeasibleError", "InputError", "__version__"]
