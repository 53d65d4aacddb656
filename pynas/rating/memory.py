"""Memory of a rating: the default budget, and freed pages that stay in the process while it runs."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

import psutil
import torch

# glibc's mallopt parameters, and the values that glibc itself would set after large blocks (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_MAX: 65536}

_lock = threading.Lock()
_holders = 0


def default_max_bytes(device: torch.device) -> int:
    """Half of the memory, in bytes, that is free on the device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + unused) // 2
    return psutil.virtual_memory().available // 2


@contextlib.contextmanager
def keep_freed_pages() -> Iterator[None]:
    """Keep freed memory in the process inside the `with` block, and give it back at the end (glibc only).

    A fresh 10 MB tensor costs more in page faults than the arithmetic on it.
    """
    global _holders
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _holders += 1
        if _holders == 1:
            for parameter, value in _KEEP.items():
                libc.mallopt(parameter, value)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                for parameter, value in _USUAL.items():
                    libc.mallopt(parameter, value)
                libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt, libc.malloc_trim  # noqa: B018
    except (OSError, AttributeError):
        return None
    libc.mallopt.argtypes, libc.malloc_trim.argtypes = [ctypes.c_int, ctypes.c_int], [ctypes.c_size_t]
    return libc
