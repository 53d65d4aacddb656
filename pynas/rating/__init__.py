"""Rating: the score of every path of a cell, by sharing features between paths that begin alike."""

from pynas.rating.rate import rate
from pynas.rating.table import ScoreTable

__all__ = ["ScoreTable", "rate"]
