"""Peak memory of a call: bytes more than before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable


def peak_bytes(device: str, reset: bool = False) -> int:
    """The largest amount of memory since the last reset: of the process (Linux), or of the GPU's allocator."""
    if device.startswith("cuda"):
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def peak_growth(function: Callable[[], object], device: str = "cpu") -> int:
    """Run the function; its peak above what was held before, with the result, to about 1 MB on the CPU.

    On the CPU every page counts, whichever library asked for it; pages that the C library held back are given up first.
    """
    gc.collect()
    if not device.startswith("cuda") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before = peak_bytes(device, reset=True)
    result = function()
    grown = peak_bytes(device) - before
    del result
    return grown
