"""Layers that the spaces share, and the modules that methods train them with."""

from pynas.nn.batch_norm import NormSequential, batch_norm_act, conv_bn
from pynas.nn.entangled import EntangledTransformer
from pynas.nn.feature_queue import FeatureQueue
from pynas.nn.mbconv import MBConv
from pynas.nn.network import Head, stem
from pynas.nn.relative import RelativeAttention, RelativePosition
from pynas.nn.slimmable import AtWidth, SlimmableConv2d, SlimmableLinear, Switchable, prefix
from pynas.nn.squeeze_excitation import SqueezeExcitation
from pynas.nn.transformer import PatchEmbedding, PooledHead, TransformerLayer

__all__ = [
    "AtWidth",
    "EntangledTransformer",
    "FeatureQueue",
    "Head",
    "MBConv",
    "NormSequential",
    "PatchEmbedding",
    "PooledHead",
    "RelativeAttention",
    "RelativePosition",
    "SlimmableConv2d",
    "SlimmableLinear",
    "SqueezeExcitation",
    "Switchable",
    "TransformerLayer",
    "batch_norm_act",
    "conv_bn",
    "prefix",
    "stem",
]
