"""Stand-in for the recorder of CUDA graphs, for tests on the CPU.

It runs the same operators on the same tensors again, so all that Python decided is frozen, as in a graph; a value that
reaches Python is an error in its rehearsal.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pynas.rating.places import memory, tensors_in


class Tape(TorchDispatchMode):
    """Notes operators with their tensors."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **kwargs or {})
        self.steps.append((func, args, kwargs or {}, output))
        return output

    @torch.inference_mode()
    def replay(self):
        for func, args, kwargs, output in self.steps:
            again = func(*args, **kwargs)
            for old, new in zip(*(tensors_in(x if isinstance(x, (tuple, list)) else [x]) for x in (output, again))):
                if memory(old) != memory(new):
                    old.copy_(new)


_READING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class NeverWaits(TorchDispatchMode):
    """Refuses operators by which values, or shapes that depend on them, reach Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # An index of numbers, unlike a mask, gives an output of a known shape.
        numbers = func is torch.ops.aten.index.Tensor and all(x is None or x.dtype == torch.int64 for x in args[1])
        if not numbers and not _READING.isdisjoint(func.tags):
            raise RuntimeError("called a synchronizing operation")
        return func(*args, **kwargs or {})


class Recorder:
    """Stands in for `CudaRecorder`."""

    def __init__(self, peak=100):
        self.peak, self.rehearsed, self.recorded, self.replayed, self.error = peak, 0, 0, 0, None

    def measure(self, run):
        return run(), self.peak

    def rehearse(self, run):
        self.rehearsed += 1
        with NeverWaits():
            return run()

    def record(self, run):
        if self.error:
            raise self.error
        self.recorded += 1
        tape = Tape()
        with tape:
            outputs = run()

        def replay():
            if self.error:
                raise self.error
            self.replayed += 1
            tape.replay()

        return outputs, replay
