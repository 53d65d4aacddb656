"""Fused operators: each is a torch operator with CPU and CUDA kernels, and a plain-torch reference beside it."""
