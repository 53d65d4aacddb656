"""One candidate of one layer, run on stacked paths so that each path gets what it would get alone."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pynas.rating.fusion import fuse
from pynas.rating.norms import PathContext, Streams

# How far apart a stacked and a separate run of the same path may be, relative to the output's largest value: kernels
# may sum in another order, while a module that mixes paths is off by its own size.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
_SAME_HALF = 5e-2


@dataclass
class _Known:
    """What was seen of a candidate on one input shape."""

    module: nn.Module
    changes_input: bool
    mixes_paths: bool | None = None


class Candidate:
    """Runs a module; the first runs of each input shape show whether it needs protection.

    A module that writes to its input gets a copy, so that its siblings do not see the change. A module that mixes the
    samples of stacked paths is run path by path. Streams are the inputs that travel together (`PathContext`).
    """

    def __init__(self, module: nn.Module, context: PathContext) -> None:
        self._module, self._context = module, context
        self._known: dict[tuple[tuple[int, ...], ...], _Known] = {}

    def __call__(self, streams: Streams, paths: int) -> Streams:
        shapes = tuple(tuple(x.shape[1:]) for x in streams)
        known = self._known.get(shapes)
        if known is None:
            outputs, known = self._guarded([path_rows(x, paths, 0, 1) for x in streams])
            self._known[shapes] = known
            if paths == 1:
                return outputs
        if paths > 1 and known.mixes_paths is None:
            known.mixes_paths = self._mixes(known, [path_rows(x, paths, 0, 2) for x in streams])
        if known.changes_input:
            streams = [x.clone() for x in streams]
        return self._one_by_one(known, streams, paths) if known.mixes_paths else self._run(known.module, streams, paths)

    def _run(self, module: nn.Module, streams: Streams, paths: int) -> Streams:
        return [module(x) for x in self._context.turns(streams, paths)]

    def _one_by_one(self, known: _Known, streams: Streams, paths: int) -> Streams:
        alone = [self._run(known.module, [path_rows(x, paths, path, 1) for x in streams], 1) for path in range(paths)]
        return [torch.cat(parts) for parts in zip(*alone)]

    def _guarded(self, streams: Streams) -> tuple[Streams, _Known]:
        """One path's outputs, on copies of its inputs that tell whether they were written to."""
        # Inference tensors count no versions.
        with torch.inference_mode(False), torch.no_grad():
            copies = [x.clone() for x in streams]
            versions = [x._version for x in copies]
            outputs = self._run(self._module, copies, 1)
            changes_input = versions != [x._version for x in copies]
            module, outputs = self._fused(streams, outputs)
            return outputs, _Known(module, changes_input)

    def _fused(self, streams: Streams, expected: Streams) -> tuple[nn.Module, Streams]:
        """The module with its norms and activations fused, if that can be had and gives the same, and its outputs."""
        fused = fuse(self._module)
        if fused is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                outputs = self._run(fused, [x.clone() for x in streams], 1)
                if all(_same(a, b) for a, b in zip(outputs, expected)):
                    return fused, outputs
        return self._module, expected

    def _mixes(self, known: _Known, streams: Streams) -> bool:
        """Whether two stacked paths come out otherwise than one by one."""
        alone = self._one_by_one(known, [x.clone() for x in streams], 2)
        stacked = self._run(known.module, [x.clone() for x in streams], 2)
        return not all(_same(a, b) for a, b in zip(stacked, alone))


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """The rows of `count` of the stacked paths."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return not a.numel() or bool((a - b).abs().max() <= _SAME.get(a.dtype, _SAME_HALF) * b.abs().max())
