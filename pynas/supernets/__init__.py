"""Supernets: a space as modules, or anybody's modules as a supernet."""

from pynas.supernets.autoformer import AutoFormer
from pynas.supernets.bignas import BigNAS
from pynas.supernets.build import build_candidate, supernet
from pynas.supernets.modes import evaluating
from pynas.supernets.supernet import Supernet

__all__ = ["AutoFormer", "BigNAS", "Supernet", "build_candidate", "evaluating", "supernet"]
