"""Reports: figures of a run."""

from pynas.report.correlation import draw_ranking
from pynas.report.front import draw_front
from pynas.report.progress import draw_progress

__all__ = ["draw_front", "draw_progress", "draw_ranking"]
