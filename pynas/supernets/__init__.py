"""Supernets: the modules of a space, or your own modules as a supernet."""

from pynas.supernets.autoformer import AutoFormer
from pynas.supernets.bignas import BigNAS
from pynas.supernets.build import KINDS, Kind, kind_of, supernet
from pynas.supernets.mbconv import from_candidates
from pynas.supernets.modes import device_of, evaluating
from pynas.supernets.nasbench201 import CellNet
from pynas.supernets.net import Net
from pynas.supernets.supernet import Supernet

__all__ = ["KINDS", "AutoFormer", "BigNAS", "CellNet", "Kind", "Net", "Supernet", "device_of", "evaluating",
           "from_candidates", "kind_of", "supernet"]  # fmt: skip
