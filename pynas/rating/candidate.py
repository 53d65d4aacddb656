"""One candidate of one layer, run on stacked paths with the outputs that each path has alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pynas.rating.copies import private_copy
from pynas.rating.fusion import fuse
from pynas.rating.graphs import Graphs
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs


@dataclass
class _Known:
    """Facts about a candidate on one input shape, found by running it."""

    contiguous: bool
    changes_input: bool = False
    fused: nn.Module | None = None
    mixes_paths: bool | None = None


class Candidate:
    """Runs a module on stacked paths; the first runs on each input shape find out how it must be run.

    A module that writes to its input gets a copy, so that its siblings do not see the change. A module that mixes the
    samples of stacked paths runs path by path. A module that fails on channels-last inputs (a `view`) gets contiguous ones.
    Threads share a fused module, which keeps no state; of any other module each thread has a copy.
    """

    def __init__(self, module: nn.Module, context: PathContext, graphs: Graphs | None = None) -> None:
        self._module, self._context, self._graphs = module, context, graphs
        self._known: dict[tuple[tuple[int, ...], ...], _Known] = {}
        self._examining = threading.Lock()
        self._of_thread = threading.local()

    def __call__(self, streams: Streams, paths: int) -> Streams:
        shapes = tuple(tuple(x.shape[1:]) for x in streams)
        known = self._known.get(shapes)
        if known is None or (paths > 1 and known.mixes_paths is None):
            with self._examining:
                known, outputs = self._examine(shapes, streams, paths)
            if outputs is not None:
                return outputs
        if known.changes_input:
            streams = [x.clone() for x in streams]
        return self._one_by_one(known, streams, paths) if known.mixes_paths else self._run(known, streams, paths)

    def _run(self, known: _Known, streams: Streams, paths: int) -> Streams:
        module = known.fused or self._own()
        if known.contiguous:
            streams = [x.contiguous() for x in streams]
        turns = self._context.turns(streams, paths)
        if self._graphs is None:
            return [module(x) for x in turns]
        return [self._graphs.run(module, x, paths) for x in turns]

    @cached_property
    def _fused(self) -> nn.Module | None:
        return fuse(self._module)

    def _own(self) -> nn.Module:
        """This thread's copy, since a forward may keep things on its module."""
        if not hasattr(self._of_thread, "module"):
            self._of_thread.module = private_copy(self._module)
        return self._of_thread.module

    def _one_by_one(self, known: _Known, streams: Streams, paths: int) -> Streams:
        alone = [self._run(known, [path_rows(x, paths, path, 1) for x in streams], 1) for path in range(paths)]
        return [torch.cat(parts) for parts in zip(*alone)]

    def _examine(
        self, shapes: tuple[tuple[int, ...], ...], streams: Streams, paths: int
    ) -> tuple[_Known, Streams | None]:
        """Return the facts, and the outputs where a run that found them was the one asked for."""
        known = self._known.get(shapes)
        if known is None:
            known, outputs = self._guarded([path_rows(x, paths, 0, 1) for x in streams])
            self._known[shapes] = known
            if paths == 1:
                return known, outputs
        if paths > 1 and known.mixes_paths is None:
            known.mixes_paths = self._mixes(known, [path_rows(x, paths, 0, 2) for x in streams])
        return known, None

    def _guarded(self, streams: Streams) -> tuple[_Known, Streams]:
        """Run one path on copies of its inputs, and note whether the module wrote to them."""
        # Inference tensors count no versions.
        with torch.inference_mode(False), torch.no_grad():
            copies = [x.clone() for x in streams]
            versions = [x._version for x in copies]
            known, plain = self._plain(copies)
            known.changes_input = versions != [x._version for x in copies]
            known.fused = self._fused
            if known.fused is not None:
                try:
                    outputs = self._run(known, [x.clone() for x in streams], 1)
                except (RuntimeError, ValueError):
                    outputs = []
                if same_outputs(outputs, plain):
                    return known, outputs
                known.fused = None
            return known, plain

    def _plain(self, streams: Streams) -> tuple[_Known, Streams]:
        try:
            return _Known(contiguous=False), self._run(_Known(contiguous=False), streams, 1)
        except RuntimeError:
            if all(x.is_contiguous() for x in streams):
                raise
        known = _Known(contiguous=True)
        return known, self._run(known, streams, 1)

    def _mixes(self, known: _Known, streams: Streams) -> bool:
        """Whether two stacked paths give other outputs than one by one."""
        alone = self._one_by_one(known, [x.clone() for x in streams], 2)
        stacked = self._run(known, [x.clone() for x in streams], 2)
        return not same_outputs(stacked, alone)


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """Rows of the stacked paths `first` to `first + count - 1`."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)
