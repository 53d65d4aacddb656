"""`rate`: the score of every path of a cell made of anybody's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating import distributed as processes
from pynas.rating import losses
from pynas.rating.batches import Batch, check_calibration, check_finite, groups, leaf_rows
from pynas.rating.copies import check_layers
from pynas.rating.engine import Engine, Settings
from pynas.rating.norms import Streams
from pynas.rating.partial import Partial, digest
from pynas.rating.progress import Meter, Progress
from pynas.rating.table import ScoreTable
from pynas.rating.tree import Node, PathTree, build_tree
from pynas.rating.walker import Visit


def rate(
    layers: Sequence[Sequence[nn.Module]],
    batches: Iterable[Batch],
    loss: str | Callable[[Tensor, Any], Tensor] = "relative_l1",
    norm: str = "batch",
    *,
    calibration: Iterable[Tensor] | None = None,
    tail: nn.Module | None = None,
    tail_norm: str = "running",
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    max_bytes: int | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool | None = None,
    workers: int | None = None,
    stack: str | int | None = None,
    graphs: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: str | Path | None = None,
    distributed: bool | None = None,
) -> ScoreTable:
    """The loss of every path through `layers`, the mean over the batches, each weighted by its number of samples.

    Equal to running each path alone, but a prefix that several paths share is computed once. The engine works on a copy
    that shares the weights: the modules themselves are not touched.

    Args:
        layers: `layers[l][c]` is candidate c of layer l, an `nn.Module` from one tensor to one tensor.
        batches: (input `[B, ...]`, target) pairs.
        loss: "relative_l1" (DNA eq. 7; each batch is scaled by the standard deviation of that batch's target), "mse",
            "cosine", "kl" (target: the teacher's logits), "cross_entropy", "error" (target: labels), or a callable
            `loss(output [B, ...], target)` that gives a number. Lower is better.
        norm: what batch norm uses: "running" (stored statistics), "batch" (the batch's own, per path) or "recalibrate"
            (re-estimated for each path from the `calibration` batches). All else is in evaluation mode.
        calibration: inputs `[B, ...]`; statistics are the mean over them, as torch's running ones with momentum=None.
        tail: what comes after the last layer, before the loss (the teacher's remaining blocks and head).
        tail_norm: the norm mode of the tail.
        paths: rate only these.
        allowed: `allowed(prefix)` is asked for every prefix and whole path; False forbids all that begins with it.
        max_bytes: budget for the features that are held; default: half of the free memory.
        dtype: run in this type, e.g. `torch.bfloat16`; losses are taken in float32.
        channels_last: layout of 4-dimensional inputs; default: on a CPU and for half types.
        workers: threads that walk subtrees on a CPU; default: torch's number of threads.
        stack: paths that run at once: "memory" (as many as fit; the default on a GPU), "cache" (as many as a core's
            cache holds; on a CPU), "measure" (by trial; last bits may differ from run to run) or a number.
        graphs: replay repeated runs of a candidate as CUDA graphs; default: on a GPU, where nothing is re-estimated.
        progress: called now and then with a `Progress` (done, total, paths per second, ETA).
        resume: a file that keeps the partial result; a killed rating goes on from there. The batches must repeat.
        distributed: share the subtrees out over torch.distributed's processes, each given the same arguments; default:
            when a process group is there.

    Raises:
        InputError: candidates that do not fit each other or the target, no batch, a score that is not finite.
    """
    layers = check_layers(layers)
    tree = build_tree([len(layer) for layer in layers], paths, allowed)
    settings = Settings(max_bytes, dtype, channels_last, workers, stack, graphs)
    calibrating = check_calibration(norm, tail_norm if tail is not None else norm, calibration)
    modes = [norm] * len(layers)
    grown, walked = (layers, tree) if tail is None else ([*layers, [tail]], tree.extended())
    if tail is not None:
        modes.append(tail_norm)
    rank, size = processes.rank_and_size(distributed)
    metadata: dict[str, Any] = {"loss": _name(loss), "norm": norm, "calibration": len(calibrating)}
    metadata |= {"tail": tail is not None, "dtype": str(dtype or "as given")}
    partial = Partial.of(resume, rank, size, len(tree.paths), *grown, *modes, tree.paths, calibrating, metadata)
    with Engine(grown, walked, modes, settings, len(calibrating)) as engine:
        units = tree.units(tree.share(rank, size), resume is not None)
        run = _Run(engine, tree, loss, calibrating, partial, units)
        with processes.fails_together(size, engine.device):
            run.rate(batches, progress)
        sums = processes.add_up(torch.from_numpy(partial.sums).to(engine.device), size)
    scores = np.full([len(layer) for layer in layers], np.nan)
    scores[tuple(tree.paths.T)] = sums.cpu().numpy() / partial.samples
    partial.remove()
    return ScoreTable(scores, {**metadata, "samples": partial.samples})


class _Run:
    """Adds up the losses of a share of the paths, group after group of batches, subtree after subtree."""

    def __init__(
        self,
        engine: Engine,
        tree: PathTree,
        loss: str | Callable[[Tensor, Any], Tensor],
        calibration: Streams,
        partial: Partial,
        units: Sequence[Node],
    ) -> None:
        self._engine, self._tree, self._calibration = engine, tree, calibration
        self._loss, self._named = losses.resolve(loss), isinstance(loss, str)
        self._partial, self._units = partial, units

    def rate(self, batches: Iterable[Batch], progress: Callable[[Progress], None] | None) -> None:
        count = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
        paths = sum(unit.stop - unit.start for unit in self._units)
        meter = Meter(progress, None if count is None else count * paths)
        samples = 0
        for index, group in enumerate(groups(batches, bool(self._calibration), self._engine.max_bytes)):
            if index < self._partial.group:
                meter.add(paths * len(group), fresh=False)
            else:
                self._group(index, group, samples, meter)
            samples += sum(len(x) for x, _ in group)
        if not samples:
            raise InputError("[rate] expected at least one batch, got none")
        self._partial.samples = samples
        meter.finish()

    def _group(self, index: int, group: list[Batch], samples: int, meter: Meter) -> None:
        if self._partial.keeps:
            self._partial.check_data(digest(group))
        streams = [*self._calibration, *(x for x, _ in group)]
        targets = [self._target(target) for _, target in group]
        sizes = [len(x) for x, _ in group]
        for number, unit in enumerate(self._units):
            if number < self._partial.unit:
                meter.add((unit.stop - unit.start) * len(group), fresh=False)
                continue
            found = torch.zeros(len(group), len(self._tree.paths), dtype=torch.float64, device=self._engine.device)
            self._engine.run(streams, self._writer(found, targets, meter), unit)
            check_finite(found[:, unit.start : unit.stop], self._tree, unit.start)
            self._partial.sums += (torch.tensor(sizes).double() @ found.cpu()).numpy()
            self._partial.advance(index, number + 1, samples)
        self._partial.unit = 0
        self._partial.advance(index + 1, 0, samples + sum(sizes))

    def _target(self, target: Any) -> Any:
        """On the outputs' device, for the named losses also in their layout."""
        if not isinstance(target, Tensor):
            return target
        return self._engine.place(target) if self._named else target.detach().to(self._engine.device)

    def _writer(self, found: Tensor, targets: list[Any], meter: Meter) -> Visit:
        def visit(leaves: Sequence[Node], streams: Streams) -> None:
            rows = leaf_rows(leaves)
            for values, outputs, target in zip(found, streams[len(self._calibration) :], targets):
                try:
                    values[rows] = self._loss(outputs, target, len(leaves)).to(values)
                except InputError as error:
                    path = self._tree.prefix(leaves[0], self._tree.depth)
                    raise InputError(f"{error} for the path {path}") from error
            meter.add(len(leaves) * len(targets))

        return visit


def _name(loss: str | Callable[..., Any]) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
