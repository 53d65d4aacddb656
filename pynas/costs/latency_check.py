"""Latency of whole networks beside the sums of a table, and the table corrected by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pynas.costs.latency import NAME, OnBuilt, time_modules
from pynas.costs.layers import LayerCosts, LayerTable
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.runtimes import Workload
from pynas.spaces import Architecture


@dataclass(frozen=True)
class Correction:
    """Latency of a whole network as `scale * sum + constant + per_layer * layers`, in ms.

    sum: of the table, of an architecture with so many `layers` in its cells. A runtime joins operators across the borders of
    candidates and begins once, so that constant and per_layer can be below 0.
    error: mean relative error of the formula on networks that it was not fitted to (each left out in turn).
    """

    scale: float = 1.0
    constant: float = 0.0
    per_layer: float = 0.0
    error: float = float("nan")


@dataclass(frozen=True)
class LatencyCheck:
    """Latency of whole networks in ms, as a table predicts it and as measured.

    layers: number of layers in the cells of each network. spread: of each measurement, the interquartile range over the median.
    """

    architectures: tuple[Architecture, ...]
    predicted: np.ndarray  # [N] ms
    measured: np.ndarray  # [N] ms
    layers: np.ndarray  # [N]
    spread: np.ndarray  # [N]

    @property
    def scale(self) -> float:
        """Median of measured over predicted latency: the effect of fusing and caching across layers on all networks."""
        return float(np.median(self.measured / self.predicted))

    @property
    def error(self) -> float:
        """Mean relative error of the predictions."""
        return _error(self.predicted, self.measured)

    @property
    def scaled_error(self) -> float:
        """Mean relative error of the predictions times `scale`."""
        return _error(self.predicted * self.scale, self.measured)

    def correction(self) -> Correction:
        """Return the correction with the least error on networks left out, of: none, a scale, a constant too, layers too.

        Each is fitted by least squares of the relative error. A correction that counts a longer sum as less is not taken.
        """
        sums, ones, layers = self.predicted, np.ones(len(self.predicted)), self.layers.astype(float)
        columns = [np.stack(part, 1) for part in ((sums,), (sums, ones), (sums, ones, layers))]
        tried = [Correction(error=self.error)]
        for terms in columns:
            # As many networks as terms, and two more to tell how good they are.
            if len(terms) < terms.shape[1] + 2 or np.linalg.matrix_rank(terms) < terms.shape[1]:
                continue
            fitted = _fit(terms, self.measured)
            if fitted[0] <= 0:
                continue
            left_out = [terms[i] @ _fit(np.delete(terms, i, 0), np.delete(self.measured, i)) for i in range(len(terms))]
            error = _error(np.array(left_out), self.measured)
            tried.append(replace(Correction(*map(float, fitted)), error=error))
        return min(tried, key=lambda each: each.error)


def _fit(terms: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)))[0]


def _error(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def check_latency(
    net: Any,
    table: Costs | LayerCosts,
    architectures: Sequence[Architecture],
    device: str | torch.device = "cpu",
    *,
    runtime: str = "torch",
    threads: int | None = None,
    repeats: int = 20,
    warm_up: int = 3,
    on_built: OnBuilt = lambda done, total: None,
) -> LatencyCheck:
    """Measure whole networks, taken out of the net, and compare them with the predictions of a latency table.

    table: of `latency`, in the same runtime, with as many threads. The other arguments are as there.

    Raises:
        InputError: as `latency`.
    """
    workload = Workload(runtime, torch.device(device), table.metadata["batch_size"], threads)
    shape = table.metadata["image_shape"]
    models = [net.extract(architecture, shape) for architecture in architectures]
    names = [f"the network {net.space.format(architecture)}" for architecture in architectures]
    timings = time_modules(models, [shape] * len(models), workload, names, repeats, warm_up, on_built)
    return LatencyCheck(
        tuple(architectures),
        np.array([table.of(architecture)[NAME] for architecture in architectures]),
        np.array([timing.median for timing in timings]),
        np.array([sum(len(choice.path) for choice in architecture) for architecture in architectures]),
        np.array([timing.spread for timing in timings]),
    )


def corrected(table: Any, correction: Correction) -> Any:
    """Return a latency table whose sums are those of a `Correction`.

    As tables are 0 or more, what a block's paths have in common stands in the fixed part.

    Raises:
        InputError: a correction by which the fastest network would take no time.
    """
    scale, constant, each = correction.scale, correction.constant, correction.per_layer
    if isinstance(table, LayerCosts):
        old = table.tables[NAME]
        fixed = [scale * start + constant + each * len(layers) for start, layers in zip(old.fixed, old.layers)]
        new = LayerTable(fixed, [scale * layers for layers in old.layers])
        if new.bounds()[0] <= 0:
            raise InputError(f"[latency] expected a correction that leaves every network some time, got {correction}")
        return replace(table, tables={**table.tables, NAME: new})
    blocks = [[scale * cell + each * cell.ndim for cell in cells] for cells in table.tables[NAME]]
    least = [min(float(cell.min()) for cell in cells) for cells in blocks]
    start = scale * table.fixed[NAME] + constant + sum(least)
    if start <= 0:
        raise InputError(f"[latency] expected a correction that leaves every network some time, got {correction}")
    tables = [[cell - low for cell in cells] for cells, low in zip(blocks, least)]
    return replace(table, tables={**table.tables, NAME: tables}, fixed={**table.fixed, NAME: start})
