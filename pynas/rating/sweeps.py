"""The two walks of a population rating: one adds up the outputs of all paths, one measures the distances to their mean.

Both are sums over paths, so processes share the paths and add up, and a killed rating resumes after the last subtree of either
walk. Outputs that fit the budget are held and measured without a second walk.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.rating import distributed as processes
from pynas.rating.batches import Batch, LeafRows, Source, check_finite
from pynas.rating.engine import Engine
from pynas.rating.graphs import Count
from pynas.rating.norms import Streams
from pynas.rating.partial import digest
from pynas.rating.progress import Meter, Progress
from pynas.rating.restart import Restart
from pynas.rating.session import Session
from pynas.rating.tree import Node

# Held paths whose distances are computed in one step.
_AT_ONCE = 64


@dataclass(frozen=True)
class CentreDistance:
    """Squared distance |S(path; x1) - mean over all paths of S(path'; x2)|^2, with `both_views` plus that of exchanged views."""

    normalize: bool
    renormalize: bool
    both_views: bool

    def features(self, y: Tensor, paths: int) -> Tensor:
        """Flatten outputs `[G*B, ...]` to `[G, B, D]`."""
        y = y.flatten(1)
        if y.dtype in (torch.bfloat16, torch.float16):
            y = y.float()
        return (F.normalize(y, dim=1) if self.normalize else y).unflatten(0, (paths, -1))

    def mean(self, total: Tensor, paths: int) -> Tensor:
        """Centre `[B, D]` from the sum over all paths."""
        mean = total / paths
        return F.normalize(mean, dim=1) if self.renormalize else mean

    def measure(
        self, values: Tensor, rows: list[int] | slice | Tensor, features: Streams, means: Sequence[Tensor]
    ) -> None:
        """Write the distances of these rows to values `[batches, P]`.

        features, means: two views of each batch in turn, `[G, B, D]` and `[B, D]`.
        """
        for batch, distances in enumerate(values):
            first, second = features[2 * batch : 2 * batch + 2]
            mean_first, mean_second = means[2 * batch : 2 * batch + 2]
            distance = _squared_distance(first, mean_second)
            distances[rows] = distance + _squared_distance(second, mean_first) if self.both_views else distance


def _squared_distance(y: Tensor, mean: Tensor) -> Tensor:
    """Squared distance of `[G, B, D]` to `[B, D]`, mean over the samples, `[G]`."""
    return (y - mean.to(y.dtype)).square_().sum(2, dtype=torch.float64).mean(1)


class Sweeps:
    """Adds the distances of this process's units (subtrees) to `partial.sums`.

    target: engine that gives the centre, None for `online` itself. hold_bytes: budget of the outputs that are held.
    """

    def __init__(
        self, online: Engine, target: Engine | None, session: Session, distance: CentreDistance, hold_bytes: int
    ) -> None:
        self._online, self._target, self._distance, self._hold_bytes = online, target, distance, hold_bytes
        self._tree, self._units, self._calibration = session.tree, session.units, session.calibration
        self._partial, self._size = session.partial, session.size
        self._paths = sum(unit.stop - unit.start for unit in self._units)
        self._lock, self._rows = threading.Lock(), LeafRows()

    def rate(self, batches: Iterable[tuple[Any, ...]], progress: Callable[[Progress], None] | None) -> None:
        """Rate all batches; at the end `partial` holds the sums and the number of samples.

        With modules that keep state, each path runs alone, all batches in turn.
        """
        max_bytes = processes.least(self._online.max_bytes, self._size, self._online.device)
        engines = list(filter(None, (self._online, self._target)))
        restart = Restart(engines, self._partial, bool(self._calibration), max_bytes, self._fail_as_one)
        restart.run(batches, partial(self._rate, progress))

    def _rate(
        self,
        progress: Callable[[Progress], None] | None,
        pending: Iterator[list[Batch]],
        count: int | None,
        source: Source,
    ) -> None:
        meter = Meter(progress, None if count is None else count * self._paths)
        # All processes take the same steps: the same groups, from the first one that some process has not done.
        first, samples = processes.least(self._partial.group, self._size, self._online.device), 0
        for index in itertools.count():
            group = self._next(index, pending)
            if group is None:
                break
            if index < first:
                meter.add(self._paths * len(group), fresh=False)
            else:
                self._group(index, group, samples, meter)
                if self._online.certain and (self._target is None or self._target.certain):
                    source.forget()
            samples += sum(len(batch.x) for batch in group)
        if not samples:
            raise InputError("[rate] expected at least one batch, got none")
        self._partial.samples = samples
        meter.finish()

    def _next(self, index: int, pending: Iterator[list[Batch]]) -> list[Batch] | None:
        """Return the next group of pairs of views, checked to be equal in all processes; None at the end."""
        content = ""
        with self._fail_as_one():
            group = next(pending, None)
            for first, second, side in group or ():
                if side is not None:
                    raise InputError("[rate] expected batches of two views, got a side input; only `rate` takes sides")
                if not isinstance(second, Tensor) or len(second) != len(first):
                    raise InputError("[rate] expected batches of two views with the same samples")
            if self._size > 1 or self._partial.keeps:
                content = digest(group)
            if group is not None and index == self._partial.group:
                self._partial.check_data(content)
        if not processes.agree(content, self._size, self._online.device):
            raise InputError("[rate] expected every process to get the same batches, got others in some")
        return group

    def _group(self, index: int, group: list[Batch], samples: int, meter: Meter) -> None:
        streams = [*self._calibration, *(view for batch in group for view in (batch.x, batch.target))]
        partial, units = self._partial, len(self._units)
        # After a kill, one process may have done with a group that another still needs the centre of.
        done = index < partial.group
        lacks = not done and partial.unit < units
        held: dict[int, Streams] = {}
        if processes.any_of(lacks, self._size, self._online.device):
            with self._fail_as_one():
                sums = self._sum(index, streams, samples, held, keep=lacks)
            sums = self._add_up(sums, group)
            if lacks:
                partial.centre = sums
                partial.advance(index, units, samples, now=True)
        with self._fail_as_one():
            if not done:
                self._measure(index, streams, group, samples, held, meter)
                partial.advance(index + 1, 0, samples + sum(len(batch.x) for batch in group))

    def _sum(self, index: int, streams: Streams, samples: int, held: dict[int, Streams], keep: bool) -> list[Tensor]:
        """Sums over this process's paths `[B, D]`, one per view; keep: save them in `partial` on the way."""
        saved, engine, views = self._partial, self._target or self._online, len(streams) - len(self._calibration)
        first = saved.unit if keep else 0
        sums = [total.to(engine.device) for total in saved.centre] if first else []
        for number in range(first, len(self._units)):
            unit = self._units[number]
            outputs = engine.evaluate(("sum", unit), partial(self._sum_unit, unit), streams, sums, lambda _: None)
            sums, kept = outputs[:views], outputs[views:]
            if kept:
                held[number] = kept
            if keep and number + 1 < len(self._units):
                saved.centre = sums
                saved.advance(index, number + 1, samples)
        return sums

    def _sum_unit(self, unit: Node, streams: Streams, given: list[Tensor], count: Count) -> list[Tensor]:
        """The given sums and those over a unit's paths, followed by the unit's outputs if they are to be held."""
        sums, kept = [total.clone() for total in given], Streams()

        def add(leaves: Sequence[Node], outputs: Streams) -> None:
            features = [self._distance.features(y, len(leaves)) for y in outputs[len(self._calibration) :]]
            with self._lock:
                self._start(sums, kept, features, unit)
                self._check_shapes(sums, features, leaves)
                if not kept:
                    for total, y in zip(sums, features):
                        total += y.sum(0, dtype=torch.float64)
            for views, y in zip(kept, features):
                views[self._rows(leaves, y.device, unit.start)] = y

        (self._target or self._online).run(streams, add, unit)
        for total, views in zip(sums, kept):  # in the paths' order: the threads' order would show in the last bits
            total += views.sum(0, dtype=torch.float64)
        return [*sums, *kept]

    def _start(self, sums: list[Tensor], kept: Streams, features: Streams, unit: Node) -> None:
        """Allocate the sums, and room for the unit's outputs where those of all units can be held."""
        with torch.inference_mode(False):  # they are also written to after the walk
            if not sums:
                sums.extend(torch.zeros(y.shape[1:], dtype=torch.float64, device=y.device) for y in features)
            held = self._paths * sum(y[0].nbytes for y in features) <= self._hold_bytes
            if not kept and held and self._target is None:
                count = unit.stop - unit.start
                kept.extend(torch.empty(count, *y.shape[1:], dtype=y.dtype, device=y.device) for y in features)

    def _check_shapes(self, sums: list[Tensor], features: Streams, leaves: Sequence[Node]) -> None:
        for total, y in zip(sums, features):
            if total.shape != y.shape[1:]:
                path = self._tree.prefix(leaves[0], self._tree.depth)
                raise InputError(
                    f"[rate] expected outputs of one shape for their mean, got {tuple(total.shape)} and "
                    f"{tuple(y.shape[1:])} (flattened) for the path {path}"
                )

    def _add_up(self, sums: list[Tensor], group: list[Batch]) -> list[Tensor]:
        """Add up the sums of all processes; a process without paths learns the widths from the others."""
        if self._size == 1:
            return sums
        device, samples = self._online.device, [len(view) for batch in group for view in (batch.x, batch.target)]
        own = torch.tensor([y.shape[1] for y in sums] or [0] * len(samples), device=device)
        widths = processes.most(own, self._size)
        with self._fail_as_one():
            if sums and not torch.equal(own, widths):
                raise InputError(f"[rate] expected outputs of one width for their mean, got {own.tolist()} in this "
                                 f"process and {widths.tolist()} in another")  # fmt: skip
        if not sums:
            sums = [torch.zeros(n, d, dtype=torch.float64, device=device) for n, d in zip(samples, widths.tolist())]
        return [processes.add_up(total, self._size) for total in sums]

    def _measure(
        self, index: int, streams: Streams, group: list[Batch], samples: int, held: dict[int, Streams], meter: Meter
    ) -> None:
        saved, units = self._partial, len(self._units)
        means = [self._distance.mean(total.to(self._online.device), len(self._tree.paths)) for total in saved.centre]
        sizes = torch.tensor([len(batch.x) for batch in group]).double()
        for number, unit in enumerate(self._units):
            count = (unit.stop - unit.start) * len(group)
            if number < saved.unit - units:
                meter.add(count, fresh=False)
                continue
            if number in held:
                values = self._zeros(len(group))
                for first in range(unit.start, unit.stop, _AT_ONCE):
                    rows = slice(first, min(first + _AT_ONCE, unit.stop))
                    inside = slice(rows.start - unit.start, rows.stop - unit.start)
                    self._distance.measure(values, rows, [views[inside] for views in held[number]], means)
                meter.add(count)
            else:
                walk = partial(self._distances, unit)
                (values,) = self._online.evaluate(("distances", unit), walk, streams, means, meter.add)
            values = values.cpu()
            check_finite(values[:, unit.start : unit.stop], self._tree, unit.start)
            saved.sums += (sizes @ values).numpy()
            saved.advance(index, units + number + 1, samples)

    def _distances(self, unit: Node, streams: Streams, means: list[Tensor], count: Count) -> list[Tensor]:
        """Distances `[batches, paths]` of a unit's paths, zero for all others."""
        values = self._zeros(len(means) // 2)

        def visit(leaves: Sequence[Node], outputs: Streams) -> None:
            features = [self._distance.features(y, len(leaves)) for y in outputs[len(self._calibration) :]]
            self._distance.measure(values, self._rows(leaves, values.device), features, means)
            count(len(leaves) * len(values))

        self._online.run(streams, visit, unit)
        return [values]

    def _zeros(self, batches: int) -> Tensor:
        return torch.zeros(batches, len(self._tree.paths), dtype=torch.float64, device=self._online.device)

    def _fail_as_one(self) -> Any:
        return processes.fail_as_one(self._size, self._online.device)
