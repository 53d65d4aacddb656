"""The published tables that pynas carries; sources and encodings in tables/README.md."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterator
from importlib.resources import files

import numpy as np

from pynas.errors import InputError
from pynas.tabular.benchmark import Benchmark
from pynas.tabular.isomorphism import isomorphism_strings

NASBENCH201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
MBCONV_OPS = ("MB6 k3", "MB6 k5", "MB3 k3", "MB3 k5")
WIDTHS = tuple(range(8, 65, 8))


def read_arrays(file: str) -> dict[str, np.ndarray]:
    """Read the arrays of one of the package's .npz tables."""
    with (files("pynas.tabular") / "tables" / file).open("rb") as opened, np.load(opened) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_rows(file: str) -> Iterator[dict[str, str]]:
    """Yield the rows of one of the package's .csv tables."""
    with (files("pynas.tabular") / "tables" / file).open(encoding="utf-8") as opened:
        yield from csv.DictReader(opened)


def nats_size(data: str = "cifar10") -> Benchmark:
    """Load NATS-Bench's size space: 32,768 choices of five widths, lexicographic, CIFAR-10."""
    _known_data("nats-size", data, ("cifar10",))
    hundredths = read_arrays("nats_size.npz")["cifar10_hundredths"]
    choices = np.stack(np.unravel_index(np.arange(8**5), (8,) * 5), axis=1).astype(np.uint8)
    return Benchmark(
        name="nats-size",
        data=data,
        architectures=tuple(":".join(map(str, row)) for row in np.array(WIDTHS)[choices].tolist()),
        choices=choices,
        ops=tuple(map(str, WIDTHS)),
        accuracy=(hundredths / 100).astype(np.float32),
        source="NATS-Bench, size space (Dong et al., TPAMI 2021), as tabulated by BossNAS; 90 epochs, one seed",
        licence="MIT (NATS-Bench)",
    )


def mbconv_23(data: str = "imagenet") -> Benchmark:
    """Load the ImageNet NAS bench: 23 architectures of `mbconv-boss`."""
    _known_data("mbconv-23", data, ("imagenet",))
    rows = list(read_rows("mbconv_23.csv"))
    names = tuple(row["encoding"] for row in rows)
    return Benchmark(
        name="mbconv-23",
        data=data,
        architectures=names,
        choices=np.array([[int(digit) for digit in name if digit != "|"] for name in names], dtype=np.uint8),
        ops=MBCONV_OPS,
        accuracy=np.array([float(row["imagenet_top1"]) for row in rows]),
        source="ImageNet NAS bench of DNA (Li et al., CVPR 2020), as published with BossNAS (Li et al., ICCV 2021)",
        licence="figures published with the authors' code, without terms of their own",
    )


def nasbench201(data: str = "cifar10") -> Benchmark:
    """Load NAS-Bench-201: 15,625 cells in the official index order; cifar10, cifar100 or imagenet16-120."""
    _known_data("nasbench201", data, ("cifar10", "cifar100", "imagenet16-120"))
    arrays = read_arrays("nasbench201.npz")
    choices = np.stack(np.unravel_index(arrays["cells"], (5,) * 6), axis=1).astype(np.uint8)
    seeds = None
    if data == "cifar10":
        hundredths = arrays["cifar10_seeds_hundredths"]
        seeds = np.where(hundredths > 0, hundredths / 100, np.nan).astype(np.float32)
    cells = [[NASBENCH201_OPS[code] for code in row] for row in choices.tolist()]
    return Benchmark(
        name="nasbench201",
        data=data,
        architectures=tuple(f"|{o[0]}~0|+|{o[1]}~0|{o[2]}~1|+|{o[3]}~0|{o[4]}~1|{o[5]}~2|" for o in cells),
        choices=choices,
        ops=NASBENCH201_OPS,
        accuracy=arrays[data.replace("-", "_")],
        source="NAS-Bench-201 (Dong and Yang, ICLR 2020) in NATS-Bench's table; mean over the seeds, 200 epochs",
        licence="MIT (NATS-Bench)",
        seeds=seeds,
        isomorphism=np.unique(isomorphism_strings(cells), return_inverse=True)[1],
    )


BENCHMARKS: dict[str, Callable[..., Benchmark]] = {
    "nats-size": nats_size,
    "mbconv-23": mbconv_23,
    "nasbench201": nasbench201,
}


def load(name: str, data: str | None = None) -> Benchmark:
    """Load a published benchmark; data: cifar10 (default), cifar100 or imagenet16-120 for nasbench201.

    Raises:
        InputError: an unknown name or data set; the message lists the known ones.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(str(name), BENCHMARKS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"[tabular] expected one of {', '.join(BENCHMARKS)}, got {name!r}{hint}")
    return BENCHMARKS[name]() if data is None else BENCHMARKS[name](data)


def _known_data(name: str, data: str, known: tuple[str, ...]) -> None:
    if data not in known:
        raise InputError(f"[{name}] expected accuracies on {' or '.join(known)}, got {data!r}")
