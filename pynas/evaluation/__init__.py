"""Whole architectures with a supernet's weights: their error rates, and the consistency between them."""

from pynas.evaluation.check import check
from pynas.evaluation.check_result import Check
from pynas.evaluation.consistency import consistency, last_layer_paths, path_similarity
from pynas.evaluation.error_rate import ErrorRate

__all__ = ["Check", "ErrorRate", "check", "consistency", "last_layer_paths", "path_similarity"]
