"""Zero-cost proxies of a run's networks as a cost, for the prior of a search."""

from __future__ import annotations

import numpy as np

from pynas import costs, export, zero_cost
from pynas.costs import Costs, LayerCosts
from pynas.runs.run import Run

# Networks that are scored, and training images that they are scored on.
NETWORKS, IMAGES = 200, 64


def proxy_cost(run: Run, name: str) -> Costs | LayerCosts:
    """Return the cost that is fitted to a proxy, or an aggregate, of 200 random networks; kept as `proxy-NAME.npz`.

    The networks have fresh weights. Their values are kept in `proxy-NAME.csv` as they come, so that a stopped scoring goes on.

    Raises:
        InputError: a space without a builder, or as `score_networks` and `pynas.costs.fitted`.
    """
    path = run.folder / f"proxy-{name}.npz"
    if path.exists():
        return costs.load(path)
    space, data, seed = run.space, run.data, run.settings.seed
    rng = np.random.default_rng(seed)
    if space.size <= NETWORKS:
        networks = list(space.architectures())
    else:
        drawn: dict = {}
        while len(drawn) < NETWORKS:
            drawn[space.sample(rng)] = None
        networks = list(drawn)
    images, labels = next(iter(data.loader("train", min(IMAGES, len(data.train)), "none", seed=seed)))
    values = zero_cost.score_networks(
        lambda architecture: export.standalone(space, architecture, data.num_classes, data.image_shape),
        map(space.format, networks), [name], images.to(run.device), labels.to(run.device), seed=seed,
        file=path.with_suffix(".csv"), progress=run.progress.count(f"score networks by {name}"),
    )  # fmt: skip
    cost = costs.fitted(space, name, networks, zero_cost.lowest_for_none(values[name]))
    cost.save(path)
    return cost
