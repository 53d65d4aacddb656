"""Training: the loop, checkpoints, exact resume; block after block."""

from pynas.train.blocks import BlockStep, fit_blocks
from pynas.train.head import fit_head
from pynas.train.loop import Step, fit
from pynas.train.team import Team

__all__ = ["BlockStep", "Step", "Team", "fit", "fit_blocks", "fit_head"]
