"""Rating by the distance to the population's centre (BossNAS): the target is the mean over all paths' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating import distributed as processes
from pynas.rating.batches import check_calibration
from pynas.rating.copies import check_layers
from pynas.rating.engine import Engine, Settings, device_of
from pynas.rating.memory import default_max_bytes
from pynas.rating.partial import Partial
from pynas.rating.progress import Progress
from pynas.rating.sweeps import CentreDistance, Sweeps
from pynas.rating.table import ScoreTable
from pynas.rating.tree import build_tree


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
    both_views: bool = True,
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: str | Path | None = None,
    distributed: bool | None = None,
    **settings: Any,
) -> ScoreTable:
    """BossNAS eq. 5-6: |S(path; x1) - mean over all paths of S(path'; x2)|^2, the mean over samples.

    Each output is flattened per sample. The outputs are held only if they fit in a quarter of `max_bytes`; else, and
    with `target_layers`, the tree is walked twice. Both walks are sums over paths, so they are shared out over processes
    and resumed like those of `rate`.

    Args:
        layers: `layers[l][c]` is candidate c of layer l. batches: pairs of views `[B, ...]`.
        norm, calibration, paths, allowed, progress, resume, distributed: as for `rate`; further settings: max_bytes,
            dtype, channels_last, workers, stack, graphs.
        tail: what comes after the last layer (the projection), in the same norm mode.
        target_layers, target_tail: another net of the same shape that gives the targets (the released code's EMA net).
        normalize: L2-normalise each output first. renormalize: and the mean, so that the loss is 2 - 2 cos.
        both_views: add the loss with the views exchanged; with `renormalize`, the released code's score is this - 4.

    Raises:
        InputError: views or outputs that differ in shape, no batch, a score that is not finite.
    """
    layers = check_layers(layers)
    tree = build_tree([len(layer) for layer in layers], paths, allowed)
    calibrating = check_calibration(norm, norm, calibration)
    if target_layers is not None and [len(layer) for layer in target_layers] != [len(layer) for layer in layers]:
        raise InputError("[rate] expected target_layers with as many candidates as layers, layer by layer")

    metadata: dict[str, Any] = {"loss": "population", "norm": norm, "calibration": len(calibrating)}
    metadata |= {"normalize": normalize, "renormalize": renormalize, "both_views": both_views}
    metadata |= {"dtype": str(settings.get("dtype") or "as given")}
    metadata |= {"targets": "own" if target_layers is None else "another net"}
    rank, size = processes.rank_and_size(distributed)
    nets = [*layers, tail, *(target_layers or ()), target_tail]
    partial = Partial.of(resume, rank, size, len(tree.paths), nets, norm, tree.paths, calibrating, metadata)
    chosen = Settings(**settings)
    budget = chosen.max_bytes or default_max_bytes(device_of(layers))
    chosen = replace(chosen, max_bytes=max(1, budget - budget // 4))

    def engine(layers: Sequence[Sequence[nn.Module]], tail: nn.Module | None) -> Engine:
        grown = list(layers) if tail is None else [*layers, [tail]]
        walked = tree if tail is None else tree.extended()
        return Engine(grown, walked, [norm] * len(grown), chosen, len(calibrating))

    with contextlib.ExitStack() as stack:
        online = stack.enter_context(engine(layers, tail))
        target = None
        if target_layers is not None:
            target = stack.enter_context(engine(check_layers(target_layers), target_tail))
        units = tree.units(tree.share(rank, size), resume is not None)
        distance = CentreDistance(normalize, renormalize, both_views)
        Sweeps(online, target, tree, units, calibrating, distance, partial, budget // 4, size).rate(batches, progress)
        sums = processes.add_up(torch.from_numpy(partial.sums).to(online.device), size)
    table = np.full([len(layer) for layer in layers], np.nan)
    table[tuple(tree.paths.T)] = sums.cpu().numpy() / partial.samples
    partial.remove()
    return ScoreTable(table, {**metadata, "samples": partial.samples})
