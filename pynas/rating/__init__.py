"""Scores of every path of a cell; paths that begin alike share their features."""

from pynas.rating.adapters import choice_layers, configured, elastic_depth, encoded, set_attributes
from pynas.rating.averaging import average, reliability, standardised
from pynas.rating.dag import dag, pack
from pynas.rating.population import rate_population
from pynas.rating.progress import Progress
from pynas.rating.rate import rate
from pynas.rating.scores import Scores
from pynas.rating.settings import Settings
from pynas.rating.table import ScoreTable

__all__ = [
    "Progress",
    "ScoreTable",
    "Scores",
    "Settings",
    "average",
    "choice_layers",
    "configured",
    "dag",
    "elastic_depth",
    "encoded",
    "pack",
    "rate",
    "rate_population",
    "reliability",
    "set_attributes",
    "standardised",
]
