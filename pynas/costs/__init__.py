"""Costs of architectures: parameters, MAdds, latency, as tables over the paths of every cell."""

from pynas.costs.table import Costs

__all__ = ["Costs"]
