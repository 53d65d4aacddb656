"""How well zero-cost proxies rank published accuracies, beside the number of parameters.

    python -m bench.zero_cost [--bench nats-size nasbench201] [--sample 200] [--images 32] [--data cifar10.npz]

A random sample of the benchmark's architectures is built with fresh weights and scored on one batch: random images and the
sum of the outputs, or with --data training images and cross-entropy. Kendall's tau over the sample, and the mean best rank
(PreNAS, appendix A) within groups of similar MAdds: 0 where every pick is its group's best, 1 where it is the worst.
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
from pynas.tabular.best_rank import mean_best_rank
from pynas.zero_cost import PROXIES, random_images, score


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
        accuracy, madds = bench.accuracy[rows], costs(bench)["madds"][rows]
        groups = np.digitize(madds, np.quantile(madds, np.linspace(0, 1, 11)[1:-1]))
        print(f"{name}: {len(rows)} architectures, {arguments.images} images of {arguments.data or 'noise'}")
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
