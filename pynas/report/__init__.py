"""Reports: figures of a run."""

from pynas.report.front import draw_front

__all__ = ["draw_front"]
