"""Trivial baselines that any ranking must beat: size, multiply-adds, widths, chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from pynas.costs import Costs, count, log_width
from pynas.errors import InputError
from pynas.spaces import Architecture
from pynas.supernets import supernet
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.load import WIDTHS

# Names of the baselines in tables and pictures.
LABELS = {"conv_params": "convolution parameters", "params": "parameters", "madds": "MAdds",
          "log_width": "sum of log widths", "random": "random"}  # fmt: skip
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}
_CELL_WIDTHS = (16, 32, 64)  # of NAS-Bench-201's stages of five cells
_SIDES = {"cifar10": 32, "cifar100": 32, "imagenet16-120": 16}


def baselines(bench: Benchmark, seed: int = 0) -> dict[str, np.ndarray]:
    """Predictors that use no image, `[N]` each; larger counts as better.

    conv_params (params for mbconv-23), madds, log_width (`pynas.costs.log_width`), and random: uniform numbers drawn with this
    seed.
    """
    counted = costs(bench)
    size = "conv_params" if "conv_params" in counted else "params"
    return {
        size: counted[size],
        "madds": counted["madds"],
        "log_width": _LOG_WIDTHS[bench.name](bench),
        "random": np.random.default_rng(seed).random(len(bench)),
    }


def costs(bench: Benchmark) -> dict[str, np.ndarray]:
    """Parameters and MAdds of every row, int64 `[N]`; for the two cell spaces also conv_params, those of convolutions alone.

    MAdds are those of convolutions and the classifier: NATS-Bench prints them plus the classifier's bias.

    Raises:
        InputError: a benchmark that the package does not carry.
    """
    if bench.name not in _COSTS:
        raise InputError(f"[baselines] expected one of {', '.join(_COSTS)}, got {bench.name!r}")
    return _COSTS[bench.name](bench)


@dataclass
class _Tally:
    """Sums over the convolutions of many networks at once; widths and flags are int64 `[N]` or numbers."""

    conv_params: np.ndarray | int = 0
    norm_params: np.ndarray | int = 0
    madds: np.ndarray | int = 0

    def conv(self, width_in, width_out, kernel: int, side: int, times=1) -> None:
        """A convolution without bias and its batch norm, `times` of them."""
        weights = times * width_in * width_out * kernel**2
        self.conv_params = self.conv_params + weights
        self.norm_params = self.norm_params + times * 2 * width_out
        self.madds = self.madds + weights * side**2

    def halving(self, width_in, width_out, side: int) -> None:
        """The residual block of stride 2 that ends at this side; its shortcut's 1x1 convolution has no batch norm."""
        self.conv(width_in, width_out, 3, side)
        self.conv(width_out, width_out, 3, side)
        self.conv_params = self.conv_params + width_in * width_out
        self.madds = self.madds + width_in * width_out * side**2

    def totals(self, width, classes: int) -> dict[str, np.ndarray]:
        """Totals, with the last batch norm and the classifier."""
        params = self.conv_params + self.norm_params + 2 * width + (width + 1) * classes
        return {"conv_params": self.conv_params, "params": params, "madds": self.madds + width * classes}


def _nats_size(bench: Benchmark) -> dict[str, np.ndarray]:
    """Layers 1, 3, 5 are the cell 3x3 / 3x3 3x3 / skip 3x3 3x3, layers 2 and 4 halve the side."""
    widths = np.array(WIDTHS)[bench.choices].T
    side, before, tally = _SIDES[bench.data], widths[0], _Tally()
    tally.conv(3, before, 3, side)
    for layer, width in enumerate(widths):
        if layer % 2:
            side //= 2
            tally.halving(before, width, side)
        else:
            tally.conv(before, width, 3, side, times=2)
            tally.conv(width, width, 3, side, times=3)
            # The skip of the first node is an identity where the width stays, else a 1x1 convolution.
            tally.conv(before, width, 1, side, times=before != width)
        before = width
    return tally.totals(before, _CLASSES[bench.data])


def _nasbench201(bench: Benchmark) -> dict[str, np.ndarray]:
    """Three stages of five cells at 16, 32, 64 channels."""
    counts = _conv_edges(bench)
    side, tally = _SIDES[bench.data], _Tally()
    tally.conv(3, 16, 3, side)
    for stage, width in enumerate(_CELL_WIDTHS):
        if stage:
            side //= 2
            tally.halving(width // 2, width, side)
        for kernel, number in counts.items():
            tally.conv(width, width, kernel, side, times=5 * number)
    return tally.totals(64, _CLASSES[bench.data])


def _mbconv_23(bench: Benchmark) -> dict[str, np.ndarray]:
    """Counted on the supernet, for 224x224 images."""
    rows = [_mbconv_costs(count).of(Architecture.parse(name)) for name in bench.architectures]
    return {name: np.array([row[name] for row in rows], dtype=np.int64) for name in ("params", "madds")}


@cache
def _mbconv_costs(counted: Callable[..., Costs]) -> Costs:
    # On the meta device no weight is drawn, so the user's random state is unchanged.
    with torch.device("meta"):
        net = supernet("mbconv-boss")
    return counted(net, (3, 224, 224))


def _conv_edges(bench: Benchmark) -> dict[int, np.ndarray]:
    """Convolutions of each kernel size in a cell of NAS-Bench-201, int64 `[N]`."""
    return {kernel: (bench.choices == bench.ops.index(f"nor_conv_{kernel}x{kernel}")).sum(axis=1) for kernel in (1, 3)}


_COSTS: dict[str, Callable[[Benchmark], dict[str, np.ndarray]]] = {
    "nats-size": _nats_size,
    "mbconv-23": _mbconv_23,
    "nasbench201": _nasbench201,
}

_LOG_WIDTHS: dict[str, Callable[[Benchmark], np.ndarray]] = {
    "nats-size": lambda bench: np.log(np.array(WIDTHS)[bench.choices]).sum(axis=1),
    "mbconv-23": lambda bench: np.array(
        [_mbconv_costs(log_width).of(Architecture.parse(name))["log_width"] for name in bench.architectures]
    ),
    "nasbench201": lambda bench: 5 * np.log(_CELL_WIDTHS).sum() * sum(_conv_edges(bench).values()),
}
