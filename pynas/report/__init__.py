"""Reports: figures of a run."""

from pynas.report.convergence import draw_convergence
from pynas.report.correlation import draw_ranking
from pynas.report.front import draw_front

__all__ = ["draw_convergence", "draw_front", "draw_ranking"]
