"""CUDA graphs: a walk of the tree, with the losses of its paths, is recorded once and replayed for every batch of its shapes.

A replay repeats all that Python decided while the walk was recorded. So a walk is recorded only after one in which no module was
looked at, examined or compared, and its replay is compared with a run by Python before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pynas.errors import InputError
from pynas.rating.looks import Looks
from pynas.rating.norms import Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.places import memory, tensors_in

Count = Callable[[int], None]
# From the input streams, the targets and a function that counts evaluations to tensors, which are new ones.
Walk = Callable[[Streams, list[Any], Count], list[Tensor]]
Run = Callable[[], list[Tensor]]

# Operators in one recording: each takes memory of the driver.
_MOST_OPERATORS = 100_000


class Recorder(Protocol):
    """Records runs, as `CudaRecorder` does."""

    def measure(self, run: Run) -> tuple[list[Tensor], int]:
        """Return a run's outputs, and the bytes that it held at most."""

    def rehearse(self, run: Run) -> list[Tensor]:
        """Return a run's outputs; raise where it waits for the device, which would break its recording."""

    def record(self, run: Run) -> tuple[list[Tensor], Callable[[], object]]:
        """Return the static outputs of a run, and the function that computes them again."""


class CudaRecorder:
    """Records runs on a CUDA device.

    Each recording has a memory pool of its own: a module may keep a constant that it made there for runs outside of the recording.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def measure(self, run: Run) -> tuple[list[Tensor], int]:
        """Return a run's outputs, and the bytes that it held at most; torch's statistic of the peak begins anew."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        outputs = run()
        return outputs, torch.cuda.max_memory_allocated(self._device) - before

    def rehearse(self, run: Run) -> list[Tensor]:
        """Return the outputs of a run on the stream of the recordings.

        Raises:
            RuntimeError: the run waits for the device.
        """
        mode, current = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with warnings.catch_warnings(), torch.cuda.device(self._device):
            warnings.filterwarnings("ignore", "Synchronization debug mode")
            torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.cuda.stream(self._stream):
                    outputs = run()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                current.wait_stream(self._stream)
        for x in outputs:
            x.record_stream(current)
        return outputs

    def record(self, run: Run) -> tuple[list[Tensor], Callable[[], object]]:
        """Return the static outputs of a run, and the replay of its graph. Other threads, as a loader's, may use the device."""
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        current = torch.cuda.stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), current:  # a broken capture does not leave its stream
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            numbers = generator.clone_state()
            try:
                with capture:
                    outputs = run()
            except BaseException:
                generator.graphsafe_set_state(numbers)  # it would refuse random numbers outside of the capture
                raise
        return outputs, graph.replay


class _Watch(TorchDispatchMode):
    """Keeps the tensors that a run reads and did not make, as a recording reads their memory at every replay.

    Raises:
        RuntimeError: a run of too many operators, or one that writes to such a tensor and so keeps state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self._made, self._operators = set[int](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._operators += 1
        if self._operators > _MOST_OPERATORS:
            raise RuntimeError(f"more than {_MOST_OPERATORS} operators")
        older = {memory(x): x for x in tensors_in([*args, *kwargs.values()]) if memory(x) not in self._made}
        self.read |= older
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[number] if number < len(args) else kwargs.get(argument.name)
                if any(memory(x) in older for x in tensors_in([written])):
                    raise RuntimeError("a write to a tensor that is older than the run")
        outputs = func(*args, **kwargs)
        results = tensors_in(outputs if isinstance(outputs, (tuple, list)) else [outputs])
        self._made |= {memory(x) for x in results} - older.keys()
        return outputs


@dataclass
class Recording:
    """A recorded walk: `replay()` computes `outputs` from `inputs`, and evaluates `count` paths.

    read: other tensors that it reads. nbytes: memory of all but these. trials: batches on which it is still to be compared.
    """

    inputs: list[Tensor | None]
    outputs: list[Tensor]
    replay: Callable[[], object]
    count: int
    read: list[Tensor]
    nbytes: int
    trials: int

    def __call__(self, values: Sequence[Tensor | None]) -> list[Tensor]:
        """Replay on these inputs; the next replay overwrites the outputs."""
        for static, x in zip(self.inputs, values):
            if static is not None and x is not None:
                static.copy_(x)
        self.replay()
        return self.outputs


class Graphs:
    """Runs walks, by replay where they were recorded.

    A walk is recorded when inputs of its shapes come again after a run that found nothing out. A walk that cannot be recorded,
    or whose replay gives something else, is run by Python from then on; after a broken capture nothing more is recorded.

    looks: of the modules that the walks run. max_bytes: budget of the recordings.
    """

    def __init__(self, recorder: Recorder, looks: Looks, max_bytes: int) -> None:
        self._recorder, self._looks, self._max_bytes = recorder, looks, max_bytes
        self._recordings: dict[Hashable, Recording] = {}
        # Bytes that a walk held at most in a run that found nothing out; walks that are not recorded.
        self._peaks: dict[Hashable, int] = {}
        self._plain = set[Hashable]()
        self._ended = False

    def run(
        self, name: Hashable, walk: Walk, streams: Streams, targets: list[Any], count: Count, trials: int = 1
    ) -> list[Tensor]:
        """Return `walk(streams, targets, count)`; the next run of that name may overwrite it.

        trials: batches on which a replay is compared with a run by Python before it is used.
        """
        given = [*streams, *targets]
        if not all(x is None or (isinstance(x, Tensor) and x.layout == torch.strided) for x in given):
            return walk(streams, targets, count)
        key = (name, len(streams), *(None if x is None else (x.shape, x.stride(), x.dtype, x.device) for x in given))
        if key in self._recordings:
            return self._replay(key, walk, streams, targets, count)
        if self._ended or key in self._plain:
            return walk(streams, targets, count)
        if key in self._peaks:
            room = self._max_bytes - sum(recording.nbytes for recording in self._recordings.values())
            if self._size(key, given) <= room:
                return self._record(key, walk, streams, targets, count, trials)
            self._plain.add(key)
            return walk(streams, targets, count)
        before = self._looks.count
        outputs, peak = self._recorder.measure(lambda: walk(streams, targets, count))
        if self._looks.count == before:
            self._peaks[key] = peak
        return outputs

    def clear(self) -> None:
        """Free all recordings, and record nothing from now on."""
        self._recordings.clear()
        self._ended = True

    def _size(self, key: Hashable, inputs: Sequence[Tensor | None]) -> int:
        return self._peaks[key] + sum(x.nbytes for x in inputs if x is not None)

    def _replay(self, key: Hashable, walk: Walk, streams: Streams, targets: list[Any], count: Count) -> list[Tensor]:
        recording = self._recordings[key]
        expected = walk(streams, targets, count) if recording.trials else None
        try:
            outputs: list[Tensor] | None = recording([*streams, *targets])
            if expected is not None:
                self._compare(key, recording, expected)
        except RuntimeError:  # memory ran out
            self.clear()
            outputs = None
        if expected is not None:
            return expected
        if outputs is None:
            return walk(streams, targets, count)
        count(recording.count)
        return outputs

    def _record(
        self, key: Hashable, walk: Walk, streams: Streams, targets: list[Any], count: Count, trials: int
    ) -> list[Tensor]:
        """Rehearse, record and compare a walk; return the rehearsal's outputs."""
        inputs, counted, watch = list[Tensor | None](), list[int](), _Watch()

        def run() -> list[Tensor]:
            counted.clear()
            return walk(inputs[: len(streams)], inputs[len(streams) :], counted.append)  # type: ignore[arg-type]

        def watched() -> list[Tensor]:
            with watch:
                return run()

        try:
            inputs += [None if x is None else x.detach().clone() for x in (*streams, *targets)]
            with self._looks.refused():
                expected = self._recorder.rehearse(watched)
        except Exception as error:  # a walk may do what a graph cannot hold
            self._plain.add(key)
            if isinstance(error, torch.OutOfMemoryError):
                self.clear()
        if key in self._plain:  # outside of the handler, so that the failed run's tensors are free by now
            return walk(streams, targets, count)
        count(sum(counted))
        try:
            with self._looks.refused():
                outputs, replay = self._recorder.record(run)
            size, read = self._size(key, inputs), list(watch.read.values())
            recording = Recording(inputs, outputs, replay, sum(counted), read, size, trials)
            recording.replay()
            self._recordings[key] = recording
            self._compare(key, recording, expected)
        except Exception as error:
            self._recordings.pop(key, None)
            self._ended = True  # the allocator may still be capturing
            if isinstance(error, torch.OutOfMemoryError):
                self.clear()
        return expected

    def _compare(self, key: Hashable, recording: Recording, expected: list[Tensor]) -> None:
        """Forget a recording that does not give the expected outputs, up to rounding."""
        recording.trials -= 1
        if not same_outputs([x.float() for x in recording.outputs], [x.float() for x in expected]):
            self._recordings.pop(key, None)
            self._plain.add(key)


def graphs_for(device: torch.device, enabled: bool | None, max_bytes: int, looks: Looks) -> Graphs | None:
    """Return the `Graphs` of a rating on this device; None where Python runs every walk.

    max_bytes: budget of the rating, half of it for recordings.

    Raises:
        InputError: enabled without a GPU.
    """
    if enabled and device.type != "cuda":
        raise InputError(
            f"[rate] expected modules on a CUDA device for graphs=True, got {device}; move them or leave it out"
        )
    if enabled is False or device.type != "cuda":
        return None
    return Graphs(CudaRecorder(device), looks, max_bytes // 2)
