"""Rating: the score of every path of a cell, by sharing features between paths that begin alike."""

from pynas.rating.population import rate_population
from pynas.rating.progress import Progress
from pynas.rating.rate import rate
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable

__all__ = ["Progress", "ScoreTable", "Scores", "rate", "rate_population"]
