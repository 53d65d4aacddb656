"""How well zero-cost proxies rank published accuracies, beside the number of parameters.

    python -m bench.zero_cost [--bench nats-size nasbench201] [--sample 200] [--images 32] [--data cifar10.npz]

A random sample of the benchmark's architectures is built with fresh weights and scored on one batch: random images and the
sum of the outputs, or with --data training images and cross-entropy. Kendall's tau over the sample, and the mean best rank
(PreNAS, appendix A): 0 where every pick is its group's best, 1 where it is the worst, 0.5 by chance. As with isomers, the
networks of a group cost the same: in nasbench201 equal parameters and MAdds, which are the cells with equally many convolutions
of each kind, in other places; in nats-size, where hardly two cost the same, parameters within 5 %.
A network that no signal passes (nasbench201 has such cells) has no score and counts as the worst. Of nasbench201, tau is also
given among the cells that waste no operation, as VKDNW's paper has it: those 9,445 all of whose operations lie between the
input and the output. Aggregates rank among the networks that tau is of.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from bench._command import command_line, run
from pynas import tabular
from pynas.runs.proxies import Batch, builder, draw, sample_rows
from pynas.spaces.nasbench201 import EDGES
from pynas.tabular.baselines import costs
from pynas.tabular.best_rank import cost_groups, mean_best_rank
from pynas.zero_cost import AGGREGATES, PROXIES, aggregate, lowest_for_none, score_networks

# What isomers have in common, and within what share of it.
COSTS = {"nasbench201": ("params", "madds"), "nats-size": ("params",)}
TOLERANCE = {"nasbench201": 0.0, "nats-size": 0.05}


def without_waste(bench: tabular.Benchmark) -> np.ndarray:
    """Which of NAS-Bench-201's cells have operations only on ways from the input to the output, bool `[N]`."""
    used = bench.choices != bench.ops.index("none")
    ahead, behind = np.zeros((2, len(bench), 4), bool)
    ahead[:, 0], behind[:, 3] = True, True
    for edge, (source, target) in enumerate(EDGES):
        ahead[:, target] |= used[:, edge] & ahead[:, source]
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        behind[:, source] |= used[:, edge] & behind[:, target]
    return np.all([~used[:, e] | (ahead[:, s] & behind[:, t]) for e, (s, t) in enumerate(EDGES)], axis=0)


def report(
    proxy: str, found: dict[str, np.ndarray], bench: tabular.Benchmark, groups: np.ndarray, live: np.ndarray
) -> None:
    """Print one proxy's or aggregate's line."""
    line = f"  {proxy:14s}"
    for rows in (np.ones(len(bench), bool), live):
        parts = {name: found[name][rows] for name in AGGREGATES.get(proxy, (proxy,))}
        values = aggregate(parts) if proxy in AGGREGATES else lowest_for_none(parts[proxy])
        line += f" tau {stats.kendalltau(values, bench.accuracy[rows]).statistic:6.3f}"
        if rows.all():
            line += f"   mBR {mean_best_rank(values, bench.accuracy, groups, lower_is_better=False):5.3f}"
    print(line, f"  without a score {np.isinf(found[proxy]).sum() if proxy in found else 0}", flush=True)


def main() -> None:
    """Score, correlate, print one table per benchmark."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--bench", nargs="+", choices=list(COSTS), default=["nats-size", "nasbench201"])
    parser.add_argument("--file", help="keep values here, and go on from them")
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--data")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.bench:
        bench = sample_rows(tabular.load(name), arguments.sample, arguments.seed)
        groups = cost_groups({cost: costs(bench)[cost] for cost in COSTS[name]}, TOLERANCE[name])
        sizes = np.bincount(groups)
        live = without_waste(bench) if name == "nasbench201" else np.ones(len(bench), bool)
        print(f"{name}: {len(bench)} architectures ({live.sum()} without waste), {arguments.images} images of "
              f"{arguments.data or 'noise'}; {sizes[sizes > 1].sum()} in {(sizes > 1).sum()} groups of equal cost")  # fmt: skip
        images, labels = draw(bench, Batch(arguments.images, arguments.data), arguments.seed)
        found = score_networks(builder(bench, images.shape[-1]), bench.architectures, list(PROXIES), images, labels,
                               seed=arguments.seed, file=arguments.file)  # fmt: skip
        for proxy in (*PROXIES, *AGGREGATES):
            report(proxy, found, bench, groups, live)


if __name__ == "__main__":
    run(main)
