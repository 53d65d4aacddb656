"""The operators' tests also run through the CUDA kernels on the CPU (tests/cuda_host)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pynas.ops import _library


@pytest.fixture(params=["cpu", "cuda_host", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the tensors are; with "cuda_host" on the CPU, but the CUDA kernels run on them."""
    if request.param != "cuda_host":
        yield request.param
        return
    module = request.getfixturevalue("cuda_host")

    def call(kernel: str, on: torch.Tensor, *arguments: object) -> None:
        getattr(module, kernel)(*[_library._native(argument) for argument in arguments], 1, 0)

    monkeypatch.setattr(_library, "call", call)
    yield "cpu"
