"""The selection stage: scores of the largest subnet, costs, the preferred space as preferred.json (PreNAS)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pynas import costs, zero_cost
from pynas.checked import AtLeastOne, checked
from pynas.data import load
from pynas.runs.run import Run
from pynas.spaces import Space
from pynas.supernets import supernet
from pynas.zero_cost import PreferredSpace

FILE = "preferred.json"


@checked("select")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """A selection's request: the best `top` architectures of every cost interval.

    interval: width of the intervals in units of the cost; start, stop: only intervals that begin from `start` on and below
    `stop`. normaliser, allocation: see `pynas.zero_cost.select`. images: of the one backward pass, drawn at random, or from
    the training images of `data`.
    """

    interval: float
    cost: Literal["params", "madds", "memory", "latency"] = "params"
    top: AtLeastOne = 1
    normaliser: str | None = None
    allocation: str | None = None
    start: float | None = None
    stop: float | None = None
    images: AtLeastOne = 64
    data: str | None = None
    seed: int = 0


def fresh_net(space: Space, num_classes: int, seed: int) -> Any:
    """Return the supernet with fresh weights from the seed.

    Raises:
        InputError: a space of a kind that architectures cannot be selected from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = supernet(space, num_classes)
    zero_cost.check_space(net)
    return net


def trained_net(run: Run) -> tuple[Any, str]:
    """Return the supernet with the weights of the run's finished training, for the post-selector, and their digest.

    Raises:
        InputError: no finished training, or a space of a kind that architectures cannot be selected from.
    """
    method, digest = run.trained_method()
    zero_cost.check_space(method.net)
    return method.net, digest


def preferred_space(
    net: Any, selection: Selection, device: torch.device, progress: Callable[[int, int], None] | None = None
) -> tuple[PreferredSpace, dict[str, float]]:
    """Return the preferred space of a net, and the seconds that costs, backward pass and selection took.

    progress: called with (images done, images).
    """
    images, labels = _batch(net, selection)
    shape = (3, net.space.image_size, net.space.image_size)
    clock = [time.perf_counter()]
    table = costs.count(net, shape)
    if selection.cost == "latency":
        table = table | costs.latency(net, shape, device)
    clock.append(time.perf_counter())
    gradients = zero_cost.gradients(net.to(device), images, labels, progress=progress)
    clock.append(time.perf_counter())
    scores = zero_cost.read_scores(net, gradients)
    space = zero_cost.select(net.space, scores, table, cost=selection.cost, interval=selection.interval, top=selection.top,
                             normaliser=selection.normaliser, allocation=selection.allocation, start=selection.start,
                             stop=selection.stop)  # fmt: skip
    clock.append(time.perf_counter())
    seconds = {
        name: after - before for name, before, after in zip(("costs", "backward", "selection"), clock, clock[1:])
    }
    scored_with = {"images": selection.images, "data": selection.data, "seed": selection.seed}
    return replace(space, metadata={**space.metadata, **scored_with}), seconds


def _batch(net: Any, selection: Selection) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return random images without labels, or one batch of training images with theirs."""
    side = net.space.image_size
    if selection.data is None:
        return zero_cost.random_images(selection.images, side, selection.seed), None
    data = load(selection.data, side, seed=selection.seed)
    size = min(selection.images, len(data.train))
    images, labels = next(iter(data.loader("train", size, "none", seed=selection.seed)))
    return images, labels


def save(folder: Path, space: PreferredSpace, seconds: dict[str, float], digest: str | None = None) -> dict[str, Any]:
    """Write preferred.json into a folder; return its content and the seconds.

    digest: of the trained weights that it was selected with, None for fresh ones.
    """
    if digest is not None:
        space = replace(space, metadata={**space.metadata, "checkpoint": digest})
    return {**zero_cost.save_preferred(folder / FILE, space), "seconds": seconds}
