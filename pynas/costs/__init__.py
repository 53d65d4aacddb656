"""Costs of architectures: parameters, MAdds, memory, latency, as tables over the paths of every cell, or by layer."""

from pynas.costs.by_kind import load
from pynas.costs.count import count, count_module, path_sums, uncounted
from pynas.costs.fitted import fitted
from pynas.costs.latency import latency
from pynas.costs.latency_check import Correction, LatencyCheck, check_latency, corrected
from pynas.costs.layers import LayerCosts, LayerTable
from pynas.costs.log_width import log_width
from pynas.costs.names import UNITS, cost_heading
from pynas.costs.range import cost_range
from pynas.costs.table import Costs
from pynas.costs.user import read_csv

__all__ = [
    "UNITS",
    "Correction",
    "Costs",
    "LatencyCheck",
    "LayerCosts",
    "LayerTable",
    "check_latency",
    "corrected",
    "cost_heading",
    "cost_range",
    "count",
    "count_module",
    "fitted",
    "latency",
    "load",
    "log_width",
    "path_sums",
    "read_csv",
    "uncounted",
]
