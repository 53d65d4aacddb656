"""Search spaces: what may be chosen, in plain Python, without weights and without torch."""

from pynas.spaces.architecture import Architecture, Choice

__all__ = ["Architecture", "Choice"]
