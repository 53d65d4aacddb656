"""Layers that the spaces share, and the modules that methods train them with."""

from pynas.nn.feature_queue import FeatureQueue
from pynas.nn.mbconv import MBConv, SqueezeExcitation, conv_bn
from pynas.nn.network import Head, stem

__all__ = ["FeatureQueue", "Head", "MBConv", "SqueezeExcitation", "conv_bn", "stem"]
