"""Cost `log_width`: how wide a path's layers are, a measure of capacity that needs no image and no weights."""

from __future__ import annotations

import math
from collections.abc import Hashable
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from pynas.costs.by_kind import collect, description, shape_of, visit
from pynas.costs.operators import output_channels
from pynas.supernets import Net
from pynas.supernets.net import Place
from pynas.supernets.shapes import Shape, extracted, sample_shape, trial

NAME = "log_width"


def log_width(net: Net, example: Any) -> Any:
    """The cost `log_width`: the sum over a path's layers of the mean logarithm of the layer's widths.

    A layer's widths are the output channels of the convolutions and linear layers that its candidate runs, each as often as it
    runs; a candidate that runs none has 0. Stem and head count 0. On NATS-Bench's size space it is the sum of the logarithms
    of the five widths, which ranks the networks there better than their parameters or MAdds do. A candidate that stands in
    several places of a graph (NAS-Bench-201) counts in each.

    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables; join them to the counted
    costs by `count(...) | log_width(...)`. Larger is more capacity. example: as in `count`.

    Raises:
        InputError: as `count`.
    """
    known: dict[Hashable, tuple[float, Shape]] = {}

    def visitor(module: nn.Module, shape: Shape, place: Place) -> tuple[float, Shape]:
        key = description(net.space, place), shape
        if key not in known:
            known[key] = _mean_log_width(extracted(module, shape), shape)
        value, output = known[key]
        return (0.0 if isinstance(place[0], str) else value), output

    walk = visit(net, example, visitor, NAME)
    return collect(net.space, walk, {NAME: float}, {"image_shape": list(shape_of(example))})


def _mean_log_width(module: nn.Module, shape: Shape) -> tuple[float, Shape]:
    """Mean logarithm of the output channels of a module's layers, and the shape of its output."""

    def run(subject: nn.Module, x: Tensor) -> tuple[float, Shape]:
        with output_channels() as channels:
            output = subject(x)
        widths = [math.log(width) for width in channels]
        return (fmean(widths) if widths else 0.0), sample_shape(subject, output, len(x))

    return trial(module, shape, run)
