"""How well scores that are fitted to a few trained networks rank all others, beside a ridge on the widths of the layers alone.

    python -m bench.calibration nats-size [--run FOLDER] [--draws 50]

A draw trains 10 or 20 networks (their accuracies are the benchmark's), chosen at random or by D-optimality, fits `calibrate` and
the ridge to them, and takes Kendall's tau of all networks that were not trained. Scores are BossNAS's published ones, or with
--run those of a rated run of the benchmark's space.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import RidgeCV

import pynas
from bench._command import command_line, run
from pynas import costs, search, tabular
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.runs.proxies import space_of
from pynas.runs.rate import stored_members
from pynas.runs.settings import read_settings
from pynas.search.calibration import Terms
from pynas.spaces import Architecture


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("bench", choices=("nats-size", "mbconv-23"))
    parser.add_argument("--run", type=Path, help="of a run, whose folder `scores` is read [default: published scores]")
    parser.add_argument("--networks", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--draws", type=int, default=50)
    options = parser.parse_args()
    bench = tabular.load(options.bench)
    space = space_of(bench)
    if options.run is None:
        published = tabular.load_path_scores(options.bench).tables
        # nats-size's are of one cell a block, which stands for those of all input widths.
        scores = Scores(space, [[block[0]] * len(cells) for block, cells in zip(published, space.blocks)])
    else:
        scores = combined(stored_members(options.run, read_settings(options.run)))
    with torch.device("meta"):
        net = pynas.supernet(space, 10)
    side = space.image_size
    counted = costs.count(net, (3, side, side)) | costs.log_width(net, (3, side, side))
    everything = [space.parse(name) for name in bench.architectures]
    terms = Terms.of_scores(scores, counted)
    widths = terms.of(everything)[:, len(terms.totals) :]
    print(f"{options.bench}: tau of the scores {_tau(-scores.total(everything), bench.accuracy):.3f}")
    for count in options.networks:
        for choose in ("random", "d-optimal"):
            pairs = [
                _draw(scores, counted, bench, everything, widths, count, choose, seed) for seed in range(options.draws)
            ]
            fitted, ridge = np.array(pairs).T
            print(f"{count:3d} {choose:10s} calibrated {fitted.mean():.3f} +- {fitted.std(ddof=1):.3f}"
                  f"   ridge on log widths {ridge.mean():.3f} +- {ridge.std(ddof=1):.3f}", flush=True)  # fmt: skip


def _draw(
    scores: Scores, counted: costs.Costs, bench: tabular.Benchmark, everything: list[Architecture], widths: np.ndarray,
    count: int, choose: str, seed: int,
) -> tuple[float, float]:  # fmt: skip
    """Tau of the calibrated scores and of the ridge among the networks that were not trained."""
    row_of = {network: row for row, network in enumerate(everything)}
    among = None if bench.name == "nats-size" else everything  # nats-size holds the whole space
    trained = search.choose_networks(scores, counted, count, choose=choose, seed=seed, among=among)
    rows = [row_of[network] for network in trained]
    rest = np.setdiff1d(np.arange(len(everything)), rows)
    fitted = search.calibrate(scores, counted, trained, bench.accuracy[rows]).scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ridge = RidgeCV(np.logspace(-4, 3, 22)).fit(widths[rows], bench.accuracy[rows])
    others = [everything[row] for row in rest]
    return _tau(-fitted.total(others), bench.accuracy[rest]), _tau(ridge.predict(widths[rest]), bench.accuracy[rest])


def _tau(prediction: np.ndarray, accuracy: np.ndarray) -> float:
    return float(stats.kendalltau(prediction, accuracy).statistic)


if __name__ == "__main__":
    run(main)
