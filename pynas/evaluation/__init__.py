"""Evaluation of whole architectures with a supernet's weights: error rate, and consistency between paths."""

from pynas.evaluation.consistency import consistency, last_layer_paths, path_similarity
from pynas.evaluation.error_rate import ErrorRate

__all__ = ["ErrorRate", "consistency", "last_layer_paths", "path_similarity"]
