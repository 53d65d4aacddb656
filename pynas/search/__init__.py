"""Exact search over score tables under cost limits (a multiple-choice knapsack), and searches by trial."""

from pynas.search.action_space import learn_action_space
from pynas.search.best import Found, best
from pynas.search.calibration import Calibration, calibrate, gaussian_process
from pynas.search.certificate import Certificate
from pynas.search.design import choose_networks
from pynas.search.diverse import Diverse, diverse, layer_distance
from pynas.search.evolution import evolve, random_search
from pynas.search.explain import BlockRank, BrokenLimit, Explanation, explain
from pynas.search.front import Front, front
from pynas.search.pareto import ParetoFront, pareto
from pynas.search.pools import Entry
from pynas.search.prices import Price, prices
from pynas.search.prior import PriorWeight, agreed_weight, with_prior
from pynas.search.ratings import History
from pynas.search.rules import Rules
from pynas.search.traverse import Traversal, traverse
from pynas.search.verify import VerificationError

__all__ = [
    "BlockRank",
    "BrokenLimit",
    "Calibration",
    "Certificate",
    "Diverse",
    "Entry",
    "Explanation",
    "Found",
    "Front",
    "History",
    "ParetoFront",
    "Price",
    "PriorWeight",
    "Rules",
    "Traversal",
    "VerificationError",
    "agreed_weight",
    "best",
    "calibrate",
    "choose_networks",
    "diverse",
    "evolve",
    "explain",
    "front",
    "gaussian_process",
    "layer_distance",
    "learn_action_space",
    "pareto",
    "prices",
    "random_search",
    "traverse",
    "with_prior",
]
