"""The operators' tests also run through the CUDA kernels on the CPU (tests/cuda_host)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import strategies as st


@pytest.fixture(params=["cpu", "cuda_host", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the tensors are; with "cuda_host" on the CPU, but the CUDA kernels run on them."""
    if request.param != "cuda_host":
        yield request.param
        return
    with request.getfixturevalue("call_on")(request.param):
        yield "cpu"


@pytest.fixture
def one_or_two_threads() -> Callable[[Callable[[], object]], tuple[object, object]]:
    """Runs a function with one thread and with two."""

    def run(function: Callable[[], object]) -> tuple[object, object]:
        before, results = torch.get_num_threads(), []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        torch.set_num_threads(before)
        return results[0], results[1]

    return run


@pytest.fixture(scope="session")
def draw_tensor() -> Callable[..., torch.Tensor]:
    """draw_tensor(draw, shape, dtype): for fuzzing, a tensor in any layout."""
    return _draw_tensor


def _draw_tensor(draw, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Values from a seed; dense, channels-last, sliced, transposed or expanded."""
    kind = draw(st.sampled_from(["dense", "channels_last", "offset", "sliced", "transposed", "expanded"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    if kind == "expanded":
        return torch.randn(shape[:-1] + (1,), generator=generator).to(dtype).expand(shape)
    if kind == "sliced":
        return torch.randn([2 * size for size in shape], generator=generator).to(dtype)[
            tuple([slice(None, None, 2)] * len(shape))
        ]
    x = torch.randn(shape, generator=generator).to(dtype)
    if kind == "offset":
        x = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)
    if kind == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "channels_last" and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x
