"""path_distance against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops.path_distance import KINDS, path_distance_reference

SHAPES = [(1, 1, 1), (2, 3, 5), (3, 2, 7, 5, 3), (64, 2, 33), (5, 1, 20001), (2, 4, 8, 16, 16)]
# Rows of the CUDA kernels: shorter than a warp's tile, of several tiles, of a block, of several chunks; the samples of one
# block and more.
SHAPES += [(9, 17, 24), (5, 9, 256), (1, 8, 1000), (3, 2, 1200), (2, 1, 16400)]


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [(True, True), (True, False), (False, True)], ids=str)
def test_layouts(kind, channels_last, device):
    outputs, target = make(3, 2, 5, 6, 7, device=device, dtype=torch.float32)
    expected = ops.path_distance(outputs, target, kind)
    formats = [torch.channels_last if last else torch.contiguous_format for last in channels_last]
    outputs, target = (x.contiguous(memory_format=layout) for x, layout in zip((outputs, target), formats))
    torch.testing.assert_close(ops.path_distance(outputs, target, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_inputs(kind, device):
    outputs, target = make(2, 4, 6, 10, device=device, dtype=torch.float32)
    outputs, target = outputs[::2, :, 1::3], target[:2].transpose(1, 2)[:, 1::3].transpose(1, 2)
    expected = path_distance_reference(outputs, target, kind).float()
    torch.testing.assert_close(ops.path_distance(outputs, target, kind), expected)


def test_relative_l1_is_the_released_formula(device):
    """DNA eq. 7 as released: mean|y - y_hat| / std(y), torch's standard deviation over the whole target."""
    outputs, target = make(3, 4, 5, 6, device=device, dtype=torch.float32)
    expected = torch.stack([(part - target).abs().mean() / target.std() for part in outputs.chunk(3)])
    torch.testing.assert_close(ops.path_distance(outputs, target, "relative_l1"), expected)


def test_large_mean_keeps_the_deviation(device):
    outputs, target = (x + 1e4 for x in make(2, 3, 50, device=device, dtype=torch.float32))
    expected = path_distance_reference(outputs, target, "relative_l1").float()
    torch.testing.assert_close(ops.path_distance(outputs, target, "relative_l1"), expected, rtol=1e-5, atol=0)


def test_constant_target_and_zero_outputs(device):
    outputs, target = torch.ones(4, 3, device=device), torch.full((2, 3), 2.0, device=device)
    assert ops.path_distance(outputs, target, "relative_l1").isinf().all()
    assert ops.path_distance(target, target, "relative_l1").isnan().all()
    assert torch.equal(ops.path_distance(outputs * 0, target, "cosine"), torch.full((2,), 2.0, device=device))


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_path(kind, device):
    outputs, target = make(3, 2, 9, device=device, dtype=torch.float32)
    outputs[3, 4] = float("nan")
    assert ops.path_distance(outputs, target, kind).isnan().tolist() == [False, True, False]


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_more_than_two_to_the_31_elements(kind):
    outputs = torch.randn(4, 2**15, 128, 129, device="cuda", dtype=torch.float16)
    distances = ops.path_distance(outputs, outputs[:2], kind)
    assert distances[0].abs() < 1e-5 and distances[1] == ops.path_distance(outputs[2:], outputs[:2], kind)[0]


def test_empty(device):
    zeros = torch.zeros(4, 0, device=device)
    assert ops.path_distance(zeros, zeros[:2], "mse").isnan().tolist() == [True, True]
    assert ops.path_distance(torch.zeros(0, 3, device=device), torch.zeros(2, 3, device=device), "mse").shape == (0,)


def test_thread_count_changes_nothing(one_or_two_threads):
    outputs, target = make(5, 3, 20000, device="cpu", dtype=torch.float32)
    for kind in KINDS:
        one, two = one_or_two_threads(lambda kind=kind: ops.path_distance(outputs, target, kind))
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("kind to be one of", {"kind": "l1"}),
        ("outputs of dtype", {"outputs": torch.zeros(4, 3, dtype=torch.int32)}),
        ("target of dtype torch.float32", {"target": torch.zeros(2, 3, dtype=torch.float64)}),
        (r"target \[B, ...\]", {"target": torch.zeros(())}),
        (r"target \[B, ...\]", {"target": torch.zeros(0, 3)}),
        (r"outputs of shape \[G", {"outputs": torch.zeros(4, 2)}),
        (r"outputs of shape \[G", {"outputs": torch.zeros(4)}),
        ("multiple of the target's 2", {"outputs": torch.zeros(5, 3)}),
        ("target on cpu", {"target": torch.zeros(2, 3, device="meta")}),
        ("outputs to be a dense tensor", {"outputs": torch.zeros(4, 3).to_sparse()}),
    ],
)
def test_bad_input(message, arguments):
    with pytest.raises(InputError, match=rf"\[path_distance\] expected.*{message}"):
        ops.path_distance(**{"outputs": torch.zeros(4, 3), "target": torch.zeros(2, 3), "kind": "mse"} | arguments)


def test_refuses_gradients(device):
    outputs, target = make(2, 3, 4, device=device, dtype=torch.float32)
    outputs.requires_grad_()
    with pytest.raises(InputError, match=r"\[path_distance\] expected outputs without requires_grad"):
        ops.path_distance(outputs, target, "mse")
    with torch.no_grad():
        ops.path_distance(outputs, target, "mse")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, device, dtype):
    outputs, target = make(3, 2, 5, 6, device=device, dtype=dtype)
    torch.library.opcheck(torch.ops.pynas.path_distance, (outputs, target, kind))


def test_compile(device):
    outputs, target = make(3, 2, 5, 6, device=device, dtype=torch.float32)
    compiled = torch.compile(lambda o, t: ops.path_distance(o * 2, t, "cosine") + 1, fullgraph=True)
    torch.testing.assert_close(compiled(outputs, target), ops.path_distance(outputs * 2, target, "cosine") + 1)


class _Module(torch.nn.Module):
    def forward(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ops.path_distance(outputs, target, "mse")


def test_export(device):
    inputs = make(3, 2, 5, 6, device=device, dtype=torch.float32)
    program = torch.export.export(_Module(), inputs)
    torch.testing.assert_close(program.module()(*inputs), _Module()(*inputs))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzz(data, call_on, draw_tensor):
    """Any shapes, layouts, strides and dtypes: the right answer, or an InputError."""
    draw = data.draw
    batch, rest = draw(st.integers(1, 4)), draw(st.lists(st.integers(0, 40), max_size=3))
    rows, kind = draw(st.integers(0, 13)), draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    outputs, target = draw_tensor(draw, (rows, *rest), dtype), draw_tensor(draw, (batch, *rest), dtype)
    with call_on(draw(st.sampled_from(["cpu", "cuda_host"]))):
        if rows % batch:
            with pytest.raises(InputError):
                ops.path_distance(outputs, target, kind)
            return
        distances = ops.path_distance(outputs, target, kind)
    if outputs.numel() == 0 or target.numel() < 2:
        assert distances.shape == (rows // batch,)
        return
    expected = path_distance_reference(outputs, target, kind)
    if kind == "relative_l1" and target.double().std() < 1e-6:
        return
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)
