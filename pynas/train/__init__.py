"""Training: the loop, checkpoints, exact resume, several processes."""

from pynas.train.head import fit_head
from pynas.train.keep import Keep
from pynas.train.loop import Step, fit
from pynas.train.method import Method
from pynas.train.team import Team

__all__ = ["Keep", "Method", "Step", "Team", "fit", "fit_head"]
