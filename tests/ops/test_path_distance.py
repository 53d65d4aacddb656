"""path_distance against plain torch in float64."""

from __future__ import annotations

import pytest
import torch

from pynas import ops
from pynas.errors import InputError
from pynas.ops.path_distance import KINDS, path_distance_reference

SHAPES = [(1, 1, 1), (2, 3, 5), (3, 2, 7, 5, 3), (64, 2, 33), (5, 1, 20001), (2, 4, 8, 16, 16)]


def make(paths: int, batch: int, *rest: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(paths * 1000 + batch)
    outputs = torch.randn(paths * batch, *rest, generator=generator) + 0.5
    target = torch.randn(batch, *rest, generator=generator) * 2 - 3
    return outputs.to(device, dtype), target.to(device, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, kind, device, dtype):
    outputs, target = make(*shape, device=device, dtype=dtype)
    if kind == "relative_l1" and target.numel() == 1:
        pytest.skip("torch warns of the standard deviation of one element")
    distances = ops.path_distance(outputs, target, kind)
    assert distances.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = path_distance_reference(outputs, target, kind).to(distances.dtype)
    torch.testing.assert_close(distances, expected, rtol=2e-6 if dtype != torch.float64 else 1e-12, atol=1e-7)


def test_refuses_gradients(device):
    outputs, target = make(2, 3, 4, device=device, dtype=torch.float32)
    outputs.requires_grad_()
    with pytest.raises(InputError, match=r"\[path_distance\] expected outputs without requires_grad"):
        ops.path_distance(outputs, target, "mse")
    with torch.no_grad():
        ops.path_distance(outputs, target, "mse")
