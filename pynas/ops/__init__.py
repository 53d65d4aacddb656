"""Fused torch operators with CPU and CUDA kernels; each file also holds a reference in plain torch."""

from pynas.ops.depthwise_conv import depthwise_conv2d
from pynas.ops.ensemble_loss import ensemble_loss
from pynas.ops.path_batch_norm import path_batch_norm
from pynas.ops.path_distance import path_distance
from pynas.ops.queue_nce import queue_nce
from pynas.ops.saliency_boxes import saliency_boxes
from pynas.ops.squeeze_excitation import squeeze_excitation

__all__ = [
    "depthwise_conv2d",
    "ensemble_loss",
    "path_batch_norm",
    "path_distance",
    "queue_nce",
    "saliency_boxes",
    "squeeze_excitation",
]
