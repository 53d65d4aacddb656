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
            outputs, self._known[shapes] = self._guarded(streams, paths)
            return outputs
        if known.changes_input:
            streams = [x.clone() for x in streams]
        if paths > 1 and known.mixes_paths is not False:
            return self._apart(streams, paths, known)
        return self._run(known.module, streams, paths)

    def _run(self, module: nn.Module, streams: Streams, paths: int) -> Streams:
        return [module(x) for x in self._context.turns(streams, paths)]

    def _guarded(self, streams: Streams, paths: int) -> tuple[Streams, _Known]:
        # Inference tensors count no versions: outside of inference mode a copy tells whether it was written to.
        with torch.inference_mode(False), torch.no_grad():
            copies = [x.clone() for x in streams]
            versions = [x._version for x in copies]
            outputs = self._one_by_one(self._module, copies, paths)
            changes_input = versions != [x._version for x in copies]
            module, outputs = self._fused(streams, paths, outputs)
            return outputs, _Known(module, changes_input)

    def _fused(self, streams: Streams, paths: int, expected: Streams) -> tuple[nn.Module, Streams]:
        """The module with its norms and activations fused, if that can be had and gives the same, and its outputs."""
        fused = fuse(self._module)
        if fused is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                outputs = self._one_by_one(fused, [x.clone() for x in streams], paths)
                if all(_same(a, b) for a, b in zip(outputs, expected)):
                    return fused, outputs
        return self._module, expected

    def _one_by_one(self, module: nn.Module, streams: Streams, paths: int) -> Streams:
        if paths == 1:
            return self._run(module, streams, 1)
        alone = [self._run(module, list(parts), 1) for parts in zip(*(x.chunk(paths) for x in streams))]
        return [torch.cat(parts) for parts in zip(*alone)]

    def _apart(self, streams: Streams, paths: int, known: _Known) -> Streams:
        copies = [x.clone() for x in streams] if known.changes_input and known.mixes_paths is None else streams
        outputs = self._one_by_one(known.module, streams, paths)
        if known.mixes_paths is None:
            stacked = self._run(known.module, copies, paths)
            known.mixes_paths = not all(_same(a, b) for a, b in zip(stacked, outputs))
        return outputs


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return not a.numel() or bool((a - b).abs().max() <= _SAME.get(a.dtype, _SAME_HALF) * b.abs().max())
