"""Zero-cost proxies of a benchmark's networks, with fresh weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from pynas import spaces, zero_cost
from pynas.data import load
from pynas.errors import InputError
from pynas.export import standalone
from pynas.runs.correlate import BENCHMARKS, Predictor
from pynas.spaces import Space
from pynas.tabular import Benchmark

# By a benchmark's data set: the number of classes, and the side of the images where it is not the space's.
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120, "imagenet": 1000}
SIDES = {"imagenet16-120": 16}


@dataclass(frozen=True)
class Batch:
    """The batch that networks are scored on.

    images: how many. data: a data set's name or path, of whose training images the batch is drawn, with labels; None for
    noise from a standard normal, without. side: of the images; None for that of the benchmark's networks.
    """

    images: int = 64
    data: str | None = None
    side: int | None = None


def sample_rows(bench: Benchmark, count: int | None, seed: int = 0) -> Benchmark:
    """Select `count` rows of a benchmark uniformly, all where it has no more or for None; a larger count adds rows to a smaller.

    Raises:
        InputError: a count below 3.
    """
    if count is None or count >= len(bench):
        return bench
    if count < 3:
        raise InputError(f"[correlate] expected a sample of at least 3 architectures, got {count}")
    mask = np.zeros(len(bench), bool)
    mask[np.random.default_rng(seed).permutation(len(bench))[:count]] = True
    return bench.where(mask)


def score_rows(
    bench: Benchmark,
    name: str,
    batch: Batch,
    *,
    seeds: int = 1,
    seed: int = 0,
    stem: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Score every row of a benchmark by a proxy or an aggregate with each of the seeds, `[seeds, N]`; higher is better.

    A seed draws the weights and the batch. A row without a finite score has the lowest one. What an aggregate says of a row
    depends on the other rows.
    stem: values are kept in STEM-seedS.csv as they come, and a stopped scoring goes on. progress: called with (rows done,
        rows), of all seeds.

    Raises:
        InputError: see `score_networks`; fewer than one seed, images or labels that do not fit the networks.
    """
    if seeds < 1 or batch.images < 1:
        raise InputError(f"[correlate] expected at least one seed and one image, got {seeds} and {batch.images}")
    found = []
    for number in range(seeds):
        images, labels = draw(bench, batch, seed + number)

        def report(done: int, _total: int, before: int = number * len(bench)) -> None:
            if progress is not None:
                progress(before + done, seeds * len(bench))

        file = None if stem is None else stem.with_name(f"{stem.name}-seed{seed + number}.csv")
        build = builder(bench, images.shape[-1])
        values = zero_cost.score_networks(build, bench.architectures, [name], images, labels, seed=seed + number, file=file,
                                          progress=report)  # fmt: skip
        found.append(zero_cost.lowest_for_none(values[name]))
    return np.stack(found)


def predictor(values: np.ndarray, name: str, batch: Batch) -> Predictor:
    """Mean over the seeds of what `score_rows` returned, as scores of a benchmark's rows."""
    seeds = f", mean of {len(values)} seeds" if len(values) > 1 else ""
    return Predictor(values.mean(0), f"{name} on {batch.images} images of {batch.data or 'noise'}{seeds}", False)


def taus(values: np.ndarray, bench: Benchmark) -> list[float]:
    """Kendall's tau with the accuracies of the scores of each seed."""
    return [float(kendalltau(row, bench.accuracy).statistic) for row in values]


def space_of(bench: Benchmark) -> Space:
    """Space of a benchmark's networks."""
    names = {name: space for space, name in BENCHMARKS.items()}
    return spaces.get(names.get(bench.name, bench.name))


def builder(bench: Benchmark, side: int) -> Callable[[str], nn.Module]:
    """Return what builds a benchmark's networks by their names, for images of a side."""
    space, classes = space_of(bench), CLASSES[bench.data]
    return lambda architecture: standalone(space, architecture, classes, (3, side, side))


def draw(bench: Benchmark, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw images `[B, 3, side, side]` for a benchmark's networks, and their labels `[B]` where there are any.

    Raises:
        InputError: too few images, or labels that the networks have no output for.
    """
    side = batch.side or SIDES.get(bench.data, space_of(bench).image_size)
    if batch.data is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch.images, 3, side, side, generator=generator), None
    data = load(batch.data, side, seed=seed)
    if len(data.train) < batch.images:
        raise InputError(
            f"[correlate] expected at least {batch.images} training images, got {len(data.train)} in {batch.data}"
        )
    images, labels = next(iter(data.loader("train", batch.images, "none", seed=seed)))
    if int(labels.max()) >= CLASSES[bench.data]:
        raise InputError(f"[correlate] expected images of at most {CLASSES[bench.data]} classes, as the networks of "
                         f"{bench.name} ({bench.data}) have, got label {int(labels.max())} in {batch.data}")  # fmt: skip
    return images, labels
