"""Fixtures of all tests: devices, dtypes with their tolerances, and CUDA kernels compiled for the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

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
