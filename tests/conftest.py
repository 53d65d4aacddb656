"""Fixtures of all tests: devices, dtypes with their tolerances, and CUDA kernels compiled for the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

# Each of several workers computes on one thread: OpenMP threads on a shared core wait for each other. Torch reads it as it loads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


def _build_cuda_host(sanitize: bool = False) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_host_build", Path(__file__).parent / "cuda_host" / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build.load(build.build(sanitize))


# Set by tests/cuda_host/sanitize.py: pynas._C is replaced by a build of the same sources with sanitizers.
SANITIZE = os.environ.get("PYNAS_SANITIZE") == "1"
if SANITIZE:
    sys.modules["pynas._C"] = _build_cuda_host(sanitize=True)

devices = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# Relative error of one rounding of a result to the dtype, after sums in float32 (float64).
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(params=devices)
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; CUDA needs `-m cuda`."""
    return request.param


@pytest.fixture(params=dtypes, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each floating-point dtype in turn."""
    return request.param


@pytest.fixture
def tolerance(dtype: torch.dtype) -> float:
    """Relative tolerance for results in `dtype`."""
    return TOLERANCES[dtype]


@pytest.fixture(scope="session")
def cuda_host() -> ModuleType:
    """The native module with the CUDA kernels compiled for the CPU; they run on stream 0."""
    return sys.modules["pynas._C"] if SANITIZE else _build_cuda_host()


@contextmanager
def kernels_of(module: ModuleType, stream: int | None) -> Iterator[None]:
    """Let the operators call the kernels of `module`: those for CUDA if there is a stream."""
    from pynas.ops import _library  # after a sanitized pynas._C has taken its place

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_library, "_C", module)
        patch.setattr(_library, "stream", lambda _: stream)
        patch.setattr(_library, "backend", lambda _: "cpu" if stream is None else "cuda")
        yield


@pytest.fixture(scope="session")
def call_on(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[None]]:
    """call_on("cuda_host"): within it, operators on CPU tensors run the CUDA kernels; call_on("cpu"): the CPU's."""
    from pynas.ops import _library

    module = request.getfixturevalue("cuda_host")
    return lambda backend: kernels_of(module, 0) if backend == "cuda_host" else kernels_of(_library._C, None)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as on a terminal of 300 columns: COLUMNS comes too late for a console that was made while it had a value."""
    from pynas.cli import display

    monkeypatch.setattr(display.out, "width", 300)
