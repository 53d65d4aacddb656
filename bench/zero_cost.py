"""How well zero-cost proxies rank published accuracies, beside the number of parameters.

    python -m bench.zero_cost [--bench nats-size nasbench201] [--sample 200] [--images 32] [--data cifar10.npz]

A random sample of the benchmark's architectures is built with fresh weights and scored on one batch: random images and the
sum of the outputs, or with --data training images and cross-entropy. Kendall's tau over the sample, and the mean best rank
(PreNAS, appendix A): 0 where every pick is its group's best, 1 where it is the worst, 0.5 by chance. As with isomers, the
networks of a group cost the same: in nasbench201 equal parameters and MAdds, which are the cells with equally many convolutions
of each kind, in other places; in nats-size, where hardly two cost the same, parameters within 5 %.
A network that no signal passes (nasbench201 has such cells) has no score and counts as the worst.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy import stats

from pynas import spaces, tabular
from pynas.data import load
from pynas.errors import InputError
from pynas.export import standalone
from pynas.tabular.baselines import costs
from pynas.tabular.best_rank import cost_groups, mean_best_rank
from pynas.zero_cost import PROXIES, random_images, score

# What isomers have in common, and within what share of it.
COSTS = {"nasbench201": ("params", "madds"), "nats-size": ("params",)}
TOLERANCE = {"nasbench201": 0.0, "nats-size": 0.05}


def batch(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One batch for all networks."""
    if arguments.data is None:
        return random_images(arguments.images, 32, arguments.seed), None
    data = load(arguments.data, 32, seed=arguments.seed)
    return next(iter(data.loader("train", arguments.images, "none", seed=arguments.seed)))


def scores(name: str, arguments: argparse.Namespace) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows of the sample, and each proxy's scores of them."""
    space, bench = spaces.get(name), tabular.load(name)
    rows = np.sort(np.random.default_rng(arguments.seed).permutation(len(bench))[: arguments.sample])
    images, labels = batch(arguments)
    found = {proxy: np.full(len(rows), -np.inf) for proxy in PROXIES}
    for number, row in enumerate(rows):
        torch.manual_seed(arguments.seed)
        model = standalone(space, bench.architectures[row], 10)
        for proxy, values in found.items():
            try:
                values[number] = score(proxy, model, images, labels, seed=arguments.seed)
            except InputError:  # not finite: nothing passes
                continue
    return rows, found


def main() -> None:
    """Score, correlate, print one table per benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", nargs="+", default=["nats-size", "nasbench201"])
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--data")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.bench:
        rows, found = scores(name, arguments)
        bench = tabular.load(name)
        accuracy = bench.accuracy[rows]
        groups = cost_groups({cost: costs(bench)[cost][rows] for cost in COSTS[name]}, TOLERANCE[name])
        sizes = np.bincount(groups)
        print(f"{name}: {len(rows)} architectures, {arguments.images} images of {arguments.data or 'noise'}; "
              f"{sizes[sizes > 1].sum()} of them in {(sizes > 1).sum()} groups of equal cost")  # fmt: skip
        for proxy, values in found.items():
            # Below all finite scores, so that ranks stay defined.
            finite = values[np.isfinite(values)]
            ranked = np.where(np.isfinite(values), values, finite.min() - 1)
            tau = stats.kendalltau(ranked, accuracy).statistic
            mbr = mean_best_rank(ranked, accuracy, groups, lower_is_better=False)
            print(
                f"  {proxy:14s} tau {tau:6.3f}   mBR {mbr:5.3f}   without a score {np.isinf(values).sum()}", flush=True
            )


if __name__ == "__main__":
    main()
