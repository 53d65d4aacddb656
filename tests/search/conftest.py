"""The exact search's tests also run through its CUDA kernels on the CPU (tests/cuda_host)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", params=["cpu", "cuda_host"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """The CPU's kernels, and those for a GPU, which take every step."""
    if request.param == "cpu":
        yield
        return
    with request.getfixturevalue("call_on")("cuda_host"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("pynas.ops.traversal"), "_DEVICE_SUMS", 0)
        yield
