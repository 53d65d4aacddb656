"""Published benchmarks as small tables, and the correlation of scores with them."""

from pynas.tabular.baselines import LABELS, baselines, costs
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.best_rank import cost_groups, mean_best_rank
from pynas.tabular.budgets import Budgets, Regret, cost_budgets, regret
from pynas.tabular.correlation import Comparison, Correlation, correlate
from pynas.tabular.load import BENCHMARKS, load
from pynas.tabular.ndcg import ndcg
from pynas.tabular.path_scores import load_path_scores, published_scores, read_scores, total_scores

__all__ = [
    "BENCHMARKS",
    "LABELS",
    "Benchmark",
    "Budgets",
    "Comparison",
    "Correlation",
    "Regret",
    "baselines",
    "correlate",
    "cost_budgets",
    "cost_groups",
    "costs",
    "load",
    "load_path_scores",
    "mean_best_rank",
    "ndcg",
    "published_scores",
    "read_scores",
    "regret",
    "total_scores",
]
