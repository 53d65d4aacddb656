"""`rate`: the score of every path of a cell made of any modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating import distributed as processes
from pynas.rating import losses
from pynas.rating.batches import Batch, LeafRows, Source, check_finite
from pynas.rating.engine import Engine
from pynas.rating.failure import failure
from pynas.rating.graphs import Count
from pynas.rating.norms import Streams
from pynas.rating.partial import digest
from pynas.rating.progress import Meter, Progress
from pynas.rating.restart import Restart
from pynas.rating.session import Session
from pynas.rating.settings import DEFAULT, Settings
from pynas.rating.table import ScoreTable
from pynas.rating.tree import Node
from pynas.rating.walker import Visit


def rate(
    layers: Sequence[Sequence[nn.Module]],
    batches: Iterable[tuple[Any, ...]],
    loss: str | Callable[[Tensor, Any], Tensor] = "relative_l1",
    norm: str = "batch",
    *,
    calibration: Iterable[Tensor | tuple[Tensor, Any]] | None = None,
    tail: nn.Module | None = None,
    tail_norm: str = "running",
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    engine: Settings = DEFAULT,
    progress: Callable[[Progress], None] | None = None,
    resume: str | Path | None = None,
    distributed: bool | None = None,
    **settings: Any,
) -> ScoreTable:
    """Score every path through `layers` by its mean loss over the samples of all batches.

    The scores equal those of running each path alone, but a prefix that several paths share is computed once. The engine
    works on a copy that shares the weights; the modules themselves are not changed.

    A module that is not known to keep the samples of a batch apart runs on one path at a time, with a warning that names it.
    Where a module keeps state in evaluation mode or draws random numbers, each path runs alone, all batches in turn, from the
    state and the random numbers of the call's begin; a warning says so, and such a rating keeps no partial result.

    Args:
        layers: `layers[l][c]` is candidate c of layer l, an `nn.Module` from one tensor to one tensor, called as `module(x)`, or as
            `module(x, side)` in batches with a side.
        batches: (input `[B, ...]`, target) or (input, target, side). side: any nest of dictionaries, lists and tuples, for all
            layers and the tail: attention masks, rotary tables, position ids. Its tensors are `[B, ...]`, as many samples as
            the input, or `[1, ...]`, the same for all; all else passes as it is. A module that writes to them writes to a copy.
        loss: "relative_l1" (DNA eq. 7; each batch is scaled by the standard deviation of that batch's target), "mse",
            "cosine", "kl" (target: the teacher's logits), "cross_entropy", "error" (target: labels), or a callable
            `loss(output [B, ...], target)` that returns one number. Lower is better.
        norm: statistics of batch norm: "running" (the stored ones), "batch" (the batch's own, per path) or "recalibrate"
            (re-estimated for each path on the `calibration` batches). All other modules are in evaluation mode.
        calibration: inputs `[B, ...]`, or pairs (input, side); the re-estimated statistics are the mean over them, as torch
            computes with momentum=None.
        tail: module between the last layer and the loss (the teacher's remaining blocks and head).
        tail_norm: norm mode of the tail.
        paths: rate only these, `[n, L]`; memory and time grow with their number. Tables of further paths join by `table | other`.
        allowed: called with every prefix of a path and with whole paths; False leaves out all paths that begin with it.
        engine: memory, type, layout, threads and stacks.
        progress: called a few times per second with a `Progress`.
        resume: file that keeps the partial result; a killed rating resumes from it. The batches must repeat.
        distributed: share the subtrees over torch.distributed's processes, each called with the same arguments. Default:
            True where a process group is initialised.
        settings: fields of `Settings` by name, in place of those of `engine`.

    Raises:
        InputError: candidates that do not fit each other or the target, no batch, a score that is not finite; batch norm
            inside TorchScript or other code that cannot be given other statistics, unless norm is "running".
    """
    metadata, engine = {"loss": _name(loss), "tail": tail is not None}, replace(engine, **settings)
    session = Session(
        layers, (norm, tail_norm), calibration, paths, allowed, tail, engine, metadata, resume, distributed
    )  # fmt: skip
    with session.engine(session.layers, tail) as walking:
        run = _Run(walking, session, loss)
        with processes.fail_as_one(session.size, walking.device):
            run.rate(batches, progress)
        return session.table(walking.device)


class _Run:
    """Adds up the losses of this process's paths, group of batches after group, subtree after subtree."""

    def __init__(self, engine: Engine, session: Session, loss: str | Callable[[Tensor, Any], Tensor]) -> None:
        self._engine, self._tree = engine, session.tree
        self._calibration, self._sides = session.calibration, session.sides
        self._loss, self._named = losses.resolve(loss), isinstance(loss, str)
        self._partial, self._units, self._rows = session.partial, session.units, LeafRows()

    def rate(self, batches: Iterable[tuple[Any, ...]], progress: Callable[[Progress], None] | None) -> None:
        """Rate all batches; with modules that keep state, each path alone, all batches in turn."""
        restart = Restart([self._engine], self._partial, bool(self._calibration), self._engine.max_bytes)
        restart.run(batches, partial(self._rate, progress))

    def _rate(
        self,
        progress: Callable[[Progress], None] | None,
        pending: Iterator[list[Batch]],
        count: int | None,
        source: Source,
    ) -> None:
        paths = sum(unit.stop - unit.start for unit in self._units)
        meter = Meter(progress, None if count is None else count * paths)
        samples = 0
        for index, group in enumerate(pending):
            if index < self._partial.group:
                meter.add(paths * len(group), fresh=False)
            else:
                self._group(index, group, samples, meter)
                if self._engine.certain:
                    source.forget()
            samples += sum(len(batch.x) for batch in group)
        if not samples:
            raise InputError("[rate] expected at least one batch, got none")
        self._partial.samples = samples
        meter.finish()

    def _group(self, index: int, group: list[Batch], samples: int, meter: Meter) -> None:
        if self._partial.keeps:
            self._partial.check_data(digest(group))
        streams = [*self._calibration, *(batch.x for batch in group)]
        sides = [*self._sides, *(batch.side for batch in group)]
        targets = [self._target(batch.target) for batch in group]
        sizes = [len(batch.x) for batch in group]
        for number, unit in enumerate(self._units):
            if number < self._partial.unit:
                meter.add((unit.stop - unit.start) * len(group), fresh=False)
                continue
            # A loss by the user may change with Python's state, which a replay would not see.
            trials = 1 if self._named else 2
            walk = partial(self._losses, unit)
            values = self._engine.evaluate(unit, walk, streams, targets, meter.add, trials, sides)[0].cpu()
            check_finite(values[:, unit.start : unit.stop], self._tree, unit.start)
            self._partial.sums += (torch.tensor(sizes).double() @ values).numpy()
            self._partial.advance(index, number + 1, samples)
        self._partial.unit = 0
        self._partial.advance(index + 1, 0, samples + sum(sizes))

    def _target(self, target: Any) -> Any:
        """Move a target to the outputs' device, and for the named losses to their layout."""
        if not isinstance(target, Tensor):
            return target
        return self._engine.place(target) if self._named else target.detach().to(self._engine.device)

    def _losses(self, unit: Node, streams: Streams, targets: list[Any], count: Count) -> list[Tensor]:
        """Losses `[batches, paths]` of a unit's paths, zero for all others."""
        values = torch.zeros(len(targets), len(self._tree.paths), dtype=torch.float64, device=self._engine.device)
        self._engine.run(streams, self._writer(values, targets, count), unit)
        return [values]

    def _writer(self, values: Tensor, targets: list[Any], count: Count) -> Visit:
        """Return the function that writes the leaves' losses to `values`, `[batches, paths]`."""

        def visit(leaves: Sequence[Node], streams: Streams) -> None:
            rows = self._rows(leaves, values.device)
            for losses_of_batch, outputs, target in zip(values, streams[len(self._calibration) :], targets):
                try:
                    losses_of_batch[rows] = self._loss(outputs, target, len(leaves)).to(losses_of_batch)
                except torch.OutOfMemoryError:
                    raise
                except (InputError, TypeError, ValueError, IndexError, RuntimeError) as error:
                    place = f"the loss after the path {self._tree.prefix(leaves[0], self._tree.depth)}"
                    raise failure(place, outputs, error) from error
            count(len(leaves) * len(targets))

        return visit


def _name(loss: str | Callable[..., Any]) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
