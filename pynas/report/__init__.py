"""Reports: figures as files, and a page of a run."""

from pynas.report.accuracies import draw_accuracies
from pynas.report.consistency import draw_consistency
from pynas.report.front import draw_front
from pynas.report.progress import draw_progress
from pynas.report.ranking import draw_convergence, draw_ranking, draw_rankings

__all__ = [
    "draw_accuracies",
    "draw_consistency",
    "draw_convergence",
    "draw_front",
    "draw_progress",
    "draw_ranking",
    "draw_rankings",
]
