"""CUDA graphs: a candidate that runs again on inputs of one shape is recorded once and replayed.

A replay is one launch in place of a dozen, which pays where tensors are small. It reads a static input and writes a static
output, so it costs a copy of both; large inputs run eagerly. A recording repeats all decisions that Python took while it was
made: so the number of stacked paths is part of its key, and a rating that re-estimates statistics is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.outputs import same_output

# Copying a larger input and its output costs more than the launches it saves.
_LARGEST_INPUT = 32 << 20
_WARM_UP = 2


@dataclass(frozen=True)
class Recording:
    """A recorded run: `replay()` computes `output` from `input`."""

    input: Tensor
    output: Tensor
    replay: Callable[[], object]

    def __call__(self, x: Tensor) -> Tensor:
        """Replay on x and return a copy of the output, which the next replay overwrites."""
        self.input.copy_(x)
        self.replay()
        return self.output.clone()

    @property
    def nbytes(self) -> int:
        """Memory of the static tensors."""
        return self.input.nbytes + self.output.nbytes


class BrokenCapture(RuntimeError):
    """A capture that failed half-way; the allocator may still be capturing, so no other capture should begin."""


Record = Callable[[nn.Module, Tensor, Any], Recording]


def record_cuda(module: nn.Module, x: Tensor, pool: Any) -> Recording:
    """Record a module on x's device, with its temporaries in a pool that other recordings use too.

    A module that waits for the device raises during the warm-up, before a capture begins that it would break.
    """
    static, stream = x.clone(), torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                module(static)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    torch.cuda.current_stream(x.device).wait_stream(stream)
    static.copy_(x)  # a module may write to its input
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(x.device), torch.cuda.graph(graph, pool=pool):
            output = module(static)
    except Exception as error:
        raise BrokenCapture(str(error)) from error
    return Recording(static, output, graph.replay)


class Graphs:
    """Runs modules, by replay where they were recorded.

    The second run on inputs of a shape is recorded and compared with an eager run. A module that cannot be recorded, or whose
    replay gives another output, runs eagerly from then on; after a broken capture nothing more is recorded.

    max_bytes: budget of the static tensors. pool: memory pool of the recordings' temporaries.
    """

    def __init__(self, max_bytes: int, record: Record = record_cuda, pool: Any = None) -> None:
        self._room, self._record, self._pool = max_bytes, record, pool
        self._runs: dict[tuple[Any, ...], Recording | None] = {}
        self._plain: set[int] = set()

    def run(self, module: nn.Module, x: Tensor, paths: int, eager: bool = False) -> Tensor:
        """Return module(x) for `paths` stacked paths, without recording or replay if `eager`.

        The module must live as long as this object.
        """
        if id(module) in self._plain or x.nbytes > _LARGEST_INPUT:
            return module(x)
        key = (id(module), paths, x.shape, x.stride(), x.dtype)
        if key not in self._runs or eager:
            self._runs.setdefault(key, None)
            return module(x)
        recording = self._runs[key]
        return self._first_replay(key, module, x) if recording is None else recording(x)

    def clear(self) -> None:
        """Free all recordings, and record nothing from now on, as memory ran out."""
        self._plain.update(key[0] for key in self._runs)
        self._runs.clear()
        self._room = 0

    def _first_replay(self, key: tuple[Any, ...], module: nn.Module, x: Tensor) -> Tensor:
        expected = module(x.clone())
        if not isinstance(expected, Tensor) or x.nbytes + expected.nbytes > self._room:
            self._plain.add(id(module))
            return expected
        try:
            recording = self._record(module, x, self._pool)
            agrees = same_output(recording(x), expected)
        except Exception as error:  # a module may do what a graph cannot hold
            agrees = False
            if isinstance(error, BrokenCapture):
                self._room = 0
        if agrees:
            self._runs[key] = recording
            self._room -= recording.nbytes
        else:
            self._plain.add(id(module))
        return expected


def graphs_for(device: torch.device, enabled: bool | None, max_bytes: int, re_estimates: bool) -> Graphs | None:
    """Return the `Graphs` of a rating on this device; None where candidates run eagerly.

    Raises:
        InputError: enabled without a GPU.
    """
    if enabled and device.type != "cuda":
        raise InputError(
            f"[rate] expected modules on a CUDA device for graphs=True, got {device}; move them or leave it out"
        )
    if enabled is False or device.type != "cuda" or re_estimates:
        return None
    return Graphs(max_bytes // 8, pool=torch.cuda.graph_pool_handle())
