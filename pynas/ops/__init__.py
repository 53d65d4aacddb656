"""Fused operators: each is a torch operator with CPU and CUDA kernels, and a plain-torch reference beside it."""

from pynas.ops.path_batch_norm import path_batch_norm
from pynas.ops.path_distance import path_distance

__all__ = ["path_batch_norm", "path_distance"]
