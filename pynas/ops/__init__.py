"""Fused operators: each is a torch operator with CPU and CUDA kernels, and a plain-torch reference beside it."""

from pynas.ops.path_distance import path_distance

__all__ = ["path_distance"]
