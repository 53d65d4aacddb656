"""Rank aggregates: several proxies as one score of each network of a set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from pynas.errors import InputError

# Proxies that an aggregate joins.
AGGREGATES = {
    "az_nas": ("expressivity", "progressivity", "trainability", "madds"),
    "vkdnw_agg": ("vkdnw", "jacov", "expressivity", "trainability", "madds"),
}


def aggregate(values_by_proxy: Mapping[str, ArrayLike]) -> np.ndarray:
    """Sum over the proxies of log(rank / N), `[N]`; higher is better (AZ-NAS, Lee and Ham, 2024).

    values_by_proxy: `[N]` each, higher is better; -infinity for a network without a score. Ranks count from 1 for the
    lowest value; equal values share the mean of their ranks. The logarithm punishes a low rank by any of the proxies. The
    value of a network depends on the others.

    Raises:
        InputError: no proxies, values of different length, NaN or +infinity.
    """
    values = {name: np.asarray(value, np.float64) for name, value in values_by_proxy.items()}
    shapes = {value.shape for value in values.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or next(iter(shapes)) == (0,):
        raise InputError("[aggregate] expected at least one proxy and as many values of each, got "
                         f"{ {name: list(value.shape) for name, value in values.items()} or 'none'}")  # fmt: skip
    for name, value in values.items():
        wrong = np.flatnonzero(np.isnan(value) | (value == np.inf))
        if len(wrong):
            raise InputError(f"[aggregate] expected finite values, or -inf where there is none, got {value[wrong[0]]} from "
                             f"{name} for network {wrong[0]}")  # fmt: skip
    return np.sum([np.log(rankdata(value) / len(value)) for value in values.values()], axis=0)
