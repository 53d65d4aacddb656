"""The selection stage: scores of the largest subnet, costs by layer, the preferred space as preferred.json."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pynas import zero_cost
from pynas.costs import UNITS
from pynas.data import load
from pynas.errors import InputError
from pynas.spaces import Space
from pynas.supernets import supernet
from pynas.zero_cost import PreferredSpace

FILE = "preferred.json"


@dataclass(frozen=True)
class Selection:
    """What a selection is asked for; `data` None scores random images (data-free), else one batch of that data set."""

    interval: float
    cost: str = "params"
    top: int = 1
    normaliser: str | None = None
    allocation: str | None = None
    start: float | None = None
    stop: float | None = None
    images: int = 64
    data: str | None = None
    seed: int = 0


def fresh_net(space: Space, num_classes: int, seed: int) -> Any:
    """The supernet with fresh weights from the seed.

    Raises:
        InputError: a space of another kind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = supernet(space, num_classes)
    zero_cost.kind_of(net)
    return net


def latency_of(net: Any, device: torch.device) -> Any:
    """The measured latency of one image, as costs of the net's kind."""
    return zero_cost.kind_of(net).latency(net, (3, net.space.image_size, net.space.image_size), device)


def preferred_space(
    net: Any, wish: Selection, device: torch.device, progress: Callable[[int, int], None] | None = None
) -> tuple[PreferredSpace, dict[str, float]]:
    """The preferred space of a net, and the seconds that its stages took."""
    if wish.cost not in ("params", "madds", "memory", "latency"):
        raise InputError(f"[select] expected a cost of {', '.join(UNITS)}, got {wish.cost!r}")
    if wish.images < 1:
        raise InputError(f"[select] expected at least one image, got {wish.images}")
    images, labels = _batch(net, wish)
    clock = [time.perf_counter()]
    costs = zero_cost.kind_of(net).count(net, (3, net.space.image_size, net.space.image_size))
    if wish.cost == "latency":
        costs = costs | latency_of(net, device)
    clock.append(time.perf_counter())
    gradients = zero_cost.gradients(net.to(device), images, labels, progress=progress)
    clock.append(time.perf_counter())
    scores = zero_cost.read_scores(net, gradients)
    found = zero_cost.select(net.space, scores, costs, cost=wish.cost, interval=wish.interval, top=wish.top,
                             normaliser=wish.normaliser, allocation=wish.allocation, start=wish.start,
                             stop=wish.stop)  # fmt: skip
    clock.append(time.perf_counter())
    seconds = {
        name: after - before for name, before, after in zip(("costs", "backward", "selection"), clock, clock[1:])
    }
    said = {"images": wish.images, "data": wish.data, "seed": wish.seed}
    return replace(found, metadata={**found.metadata, **said}), seconds


def _batch(net: Any, wish: Selection) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Random images without labels, or one batch of training images with theirs."""
    side = net.space.image_size
    if wish.data is None:
        return zero_cost.random_images(wish.images, side, wish.seed), None
    data = load(wish.data, side, seed=wish.seed)
    images, labels = next(iter(data.loader("train", min(wish.images, len(data.train)), "none", seed=wish.seed)))
    return images, labels


def save(folder: Path, found: PreferredSpace, seconds: dict[str, float]) -> dict[str, Any]:
    """Write preferred.json into a folder; gives its content and the seconds."""
    return {**zero_cost.save_preferred(folder / FILE, found), "seconds": seconds}
