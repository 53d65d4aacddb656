"""Smaller networks from a trained one, under limits: `pynas.compress(model, batches, limits={"madds": "60%"})`."""

from pynas.compress.plan import Plan, plan
from pynas.compress.rate import rate

__all__ = ["Plan", "plan", "rate"]
