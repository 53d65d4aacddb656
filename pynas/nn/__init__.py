"""Layers that the spaces share."""

from pynas.nn.mbconv import MBConv, SqueezeExcitation, conv_bn
from pynas.nn.network import Head, stem

__all__ = ["Head", "MBConv", "SqueezeExcitation", "conv_bn", "stem"]
