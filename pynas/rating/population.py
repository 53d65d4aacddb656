"""Rating by the distance to the population's centre (BossNAS): the target is the mean over all paths' outputs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.rating.batches import check_calibration, check_finite, groups, leaf_rows
from pynas.rating.copies import check_layers
from pynas.rating.engine import Engine, Settings
from pynas.rating.norms import Streams
from pynas.rating.progress import Meter, Progress
from pynas.rating.table import ScoreTable
from pynas.rating.tree import Node, PathTree, build_tree


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
    **settings: Any,
) -> ScoreTable:
    """BossNAS eq. 5-6: |S(path; x1) - mean over all paths of S(path'; x2)|^2, the mean over samples.

    Each output is flattened per sample. The outputs are held only if they fit in a quarter of `max_bytes`; else, and
    with `target_layers`, the tree is walked twice.

    Args:
        layers: `layers[l][c]` is candidate c of layer l. batches: pairs of views `[B, ...]`.
        norm, calibration, paths, allowed, progress: as for `rate`; further settings: max_bytes, dtype, channels_last,
            workers, stack.
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

    def engine(layers: Sequence[Sequence[nn.Module]], tail: nn.Module | None) -> Engine:
        grown = list(layers) if tail is None else [*layers, [tail]]
        walked = tree if tail is None else tree.extended()
        return Engine(grown, walked, [norm] * len(grown), Settings(**settings), len(calibrating))

    with contextlib.ExitStack() as stack:
        online = stack.enter_context(engine(layers, tail))
        target = None
        if target_layers is not None:
            target = stack.enter_context(engine(check_layers(target_layers), target_tail))
        sweeps = _Sweeps(online, target, tree, len(calibrating), normalize, renormalize, both_views)
        scores, samples = sweeps.rate(batches, calibrating, progress)
    table = np.full([len(layer) for layer in layers], np.nan)
    table[tuple(tree.paths.T)] = scores
    made_from = {"loss": "population", "norm": norm, "calibration": len(calibrating), "samples": samples}
    made_from |= {"normalize": normalize, "renormalize": renormalize, "both_views": both_views}
    return ScoreTable(table, {**made_from, "targets": "own" if target_layers is None else "another net"})


class _Sweeps:
    """One walk for the mean of the outputs and one for the distances to it; one for both if the outputs can be held."""

    def __init__(
        self,
        online: Engine,
        target: Engine | None,
        tree: PathTree,
        calibration: int,
        normalize: bool,
        renormalize: bool,
        both_views: bool,
    ) -> None:
        self._online, self._target, self._tree, self._calibration = online, target, tree, calibration
        self._normalize, self._renormalize, self._both = normalize, renormalize, both_views
        self._lock = threading.Lock()

    def rate(
        self, batches: Iterable[Any], calibrating: Streams, progress: Callable[[Progress], None] | None
    ) -> tuple[np.ndarray, int]:
        """Scores `[P]` in the tree's order, and the number of samples they are the mean of."""
        count = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
        meter = Meter(progress, None if count is None else count * len(self._tree.paths))
        total, samples = np.zeros(len(self._tree.paths)), 0
        for group in groups(batches, bool(calibrating), self._online.max_bytes):
            for first, second in group:
                if not isinstance(second, Tensor) or len(second) != len(first):
                    raise InputError("[rate] expected batches of two views with the same samples")
            sizes = [len(first) for first, _ in group]
            distances = self._group([*calibrating, *(view for pair in group for view in pair)], len(group), meter)
            check_finite(distances, self._tree)
            total += (torch.tensor(sizes).double() @ distances.cpu()).numpy()
            samples += sum(sizes)
        if not samples:
            raise InputError("[rate] expected at least one batch, got none")
        meter.finish()
        return total / samples, samples

    def _group(self, streams: Streams, batches: int, meter: Meter) -> Tensor:
        """Distances `[batches, P]`."""
        distances = torch.zeros(batches, len(self._tree.paths), dtype=torch.float64, device=self._online.device)
        sums: list[Tensor] = []
        held: list[Tensor] = []

        def add(leaves: Sequence[Node], outputs: Streams) -> None:
            features = [self._features(y, len(leaves)) for y in outputs[self._calibration :]]
            with self._lock:
                self._add(leaves, features, sums, held)
            if held:
                for views, all_outputs in zip(features, held):
                    all_outputs[leaf_rows(leaves)] = views
                meter.add(len(leaves) * batches)

        def measure(leaves: Sequence[Node], outputs: Streams) -> None:
            features = [self._features(y, len(leaves)) for y in outputs[self._calibration :]]
            self._measure(distances, leaf_rows(leaves), features, means)
            meter.add(len(leaves) * batches)

        (self._target or self._online).run(streams, add)
        if held:  # in the paths' order: the threads' order would show in the last bits
            sums = [outputs.sum(0, dtype=torch.float64) for outputs in held]
        means = [self._mean(total) for total in sums]
        if held:
            for first in range(0, len(self._tree.paths), _AT_ONCE):
                rows = slice(first, first + _AT_ONCE)
                self._measure(distances, rows, [outputs[rows] for outputs in held], means)
        else:
            self._online.run(streams, measure)
        return distances

    def _add(self, leaves: Sequence[Node], features: Streams, sums: list[Tensor], held: list[Tensor]) -> None:
        paths = len(self._tree.paths)
        if not sums:
            sums.extend(torch.zeros(y.shape[1:], dtype=torch.float64, device=y.device) for y in features)
            room = paths * sum(y[0].nbytes for y in features) <= self._online.max_bytes // 4
            if room and self._target is None:
                held.extend(y.new_empty(paths, *y.shape[1:]) for y in features)
        for total, y in zip(sums, features):
            if total.shape != y.shape[1:]:
                path = self._tree.prefix(leaves[0], self._tree.depth)
                raise InputError(
                    f"[rate] expected outputs of one shape for their mean, got {tuple(total.shape)} and "
                    f"{tuple(y.shape[1:])} (flattened) for the path {path}"
                )
            total += y.sum(0, dtype=torch.float64)

    def _features(self, y: Tensor, paths: int) -> Tensor:
        """Outputs `[G*B, ...]` as `[G, B, D]`."""
        y = y.flatten(1)
        if y.dtype in (torch.bfloat16, torch.float16):
            y = y.float()
        return (F.normalize(y, dim=1) if self._normalize else y).unflatten(0, (paths, -1))

    def _mean(self, total: Tensor) -> Tensor:
        mean = total / len(self._tree.paths)
        return F.normalize(mean, dim=1) if self._renormalize else mean

    def _measure(self, distances: Tensor, rows: list[int] | slice, features: Streams, means: list[Tensor]) -> None:
        """features, means: two views of each batch in turn, `[G, B, D]` and `[B, D]`."""
        for batch, values in enumerate(distances):
            first, second = features[2 * batch : 2 * batch + 2]
            mean_first, mean_second = means[2 * batch : 2 * batch + 2]
            found = _squared_distance(first, mean_second)
            values[rows] = found + _squared_distance(second, mean_first) if self._both else found


# Held paths whose distances are taken in one step.
_AT_ONCE = 64


def _squared_distance(y: Tensor, mean: Tensor) -> Tensor:
    """Per path `[G]`: the squared distance of `[G, B, D]` to `[B, D]`, the mean over samples."""
    return (y - mean.to(y.dtype)).square_().sum(2, dtype=torch.float64).mean(1)
