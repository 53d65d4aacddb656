"""Searches by trial on NAS-Bench-201: the test error (CIFAR-10, published) of the best cell that each finds.

    python -m bench.trials [--budget 150 250] [--seeds 7]

The same number of ratings for all; the median over the seeds, beside the best of all 15,625 cells.
"""

from __future__ import annotations

import numpy as np

from bench._command import command_line, run
from pynas import spaces, tabular
from pynas.search import evolve, learn_action_space, random_search

SEARCHES = {"random": random_search, "evolution": evolve, "action space": learn_action_space}


def main() -> None:
    """Print a row per search and budget."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--budget", type=int, nargs="+", default=[150, 250])
    parser.add_argument("--seeds", type=int, default=7)
    arguments = parser.parse_args()
    bench, space = tabular.load("nasbench201"), spaces.get("nasbench201")
    error = {tuple(codes): 100 - float(value) for codes, value in zip(bench.choices.tolist(), bench.accuracy)}
    print(f"best of all: {min(error.values()):.3f} %")
    for budget in arguments.budget:
        for name, search in SEARCHES.items():
            runs = [search(space, lambda a: error[a[0].path], budget, seed=seed) for seed in range(arguments.seeds)]
            best = [run.scores.min() for run in runs]
            print(
                f"{budget} ratings, {name:<12}  median {np.median(best):.2f} %  from {min(best):.2f} to {max(best):.2f}"
            )


if __name__ == "__main__":
    run(main)
