"""Layers that the spaces share, and the modules that methods train them with."""

from pynas.nn.feature_queue import FeatureQueue
from pynas.nn.mbconv import MBConv, SqueezeExcitation, conv_bn
from pynas.nn.network import Head, stem
from pynas.nn.slimmable import AtWidth, SlimmableConv2d, SlimmableLinear, Switchable, prefix

__all__ = ["AtWidth", "FeatureQueue", "Head", "MBConv", "SlimmableConv2d", "SlimmableLinear", "SqueezeExcitation",
           "Switchable", "conv_bn", "prefix", "stem"]  # fmt: skip
