"""Training: the loop, checkpoints, exact resume."""

from pynas.train.loop import Step, fit

__all__ = ["Step", "fit"]
