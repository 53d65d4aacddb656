"""Training: the loop, checkpoints, exact resume."""

from pynas.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pynas.train.loop import Step, fit

__all__ = ["Checkpoint", "Step", "fit", "load_checkpoint", "save_checkpoint"]
