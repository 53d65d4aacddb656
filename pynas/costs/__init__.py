"""Costs of architectures: parameters, MAdds, latency, as tables over the paths of every cell."""

from pynas.costs.count import count, count_module, path_sums
from pynas.costs.table import UNITS, Costs

__all__ = ["UNITS", "Costs", "count", "count_module", "path_sums"]
