"""`rate_population`: BossNAS's distance of every path's output to the mean over all paths' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.copies import check_layers
from pynas.rating.memory import default_max_bytes
from pynas.rating.progress import Progress
from pynas.rating.session import Session
from pynas.rating.settings import DEFAULT, Settings
from pynas.rating.sweeps import CentreDistance, Sweeps
from pynas.rating.table import ScoreTable
from pynas.supernets import device_of


def rate_population(
    layers: Sequence[Sequence[nn.Module]],
    batches: Iterable[tuple[Tensor, Tensor]],
    norm: str = "recalibrate",
    *,
    calibration: Iterable[Tensor] | None = None,
    tail: nn.Module | None = None,
    target_layers: Sequence[Sequence[nn.Module]] | None = None,
    target_tail: nn.Module | None = None,
    normalize: bool = True,
    renormalize: bool = False,
    both_views: bool = False,
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    engine: Settings = DEFAULT,
    progress: Callable[[Progress], None] | None = None,
    resume: str | Path | None = None,
    distributed: bool | None = None,
    **settings: Any,
) -> ScoreTable:
    """Score every path by BossNAS's eq. 5-6: |S(path; x1) - mean over all paths of S(path'; x2)|^2, mean over the samples.

    Each output is flattened per sample. The outputs are held only if they fit in a quarter of `engine.max_bytes`; otherwise,
    and with `target_layers`, the tree is walked twice. Both walks are sums over paths, shared over processes and resumed
    like those of `rate`.

    Args:
        layers: `layers[l][c]` is candidate c of layer l. batches: pairs of views `[B, ...]`.
        norm, calibration, paths, allowed, engine, progress, resume, distributed, settings: as for `rate`.
        tail: module after the last layer (the projection), in the same norm mode.
        target_layers, target_tail: another net of the same shape that gives the mean (the released code's EMA net).
        normalize: L2-normalise each output first.
        renormalize: L2-normalise the mean as well, so that the loss is 2 - 2 cos.
        both_views: add the loss with the views exchanged; with `renormalize`, the released code's score is this one - 4.

    Raises:
        InputError: views or outputs that differ in shape, no batch, a score that is not finite.
    """
    metadata = {"loss": "population", "normalize": normalize, "renormalize": renormalize, "both_views": both_views}
    metadata["targets"] = "own" if target_layers is None else "another net"
    engine = replace(engine, **settings)
    session = Session(
        layers, (norm, norm), calibration, paths, allowed, tail, engine, metadata, resume, distributed,
        others=[*(target_layers or ()), target_tail],
    )  # fmt: skip
    if target_layers is not None and [len(layer) for layer in target_layers] != list(map(len, session.layers)):
        raise InputError("[rate] expected target_layers with as many candidates as layers, layer by layer")
    budget = engine.max_bytes or default_max_bytes(device_of(session.layers))
    walking = replace(engine, max_bytes=max(1, budget - budget // 4))
    with contextlib.ExitStack() as stack:
        online = stack.enter_context(session.engine(session.layers, tail, walking))
        target = None
        if target_layers is not None:
            target = stack.enter_context(session.engine(check_layers(target_layers), target_tail, walking))
        distance = CentreDistance(normalize, renormalize, both_views)
        Sweeps(online, target, session, distance, budget // 4).rate(batches, progress)
        return session.table(online.device)
