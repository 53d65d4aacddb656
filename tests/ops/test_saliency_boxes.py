"""saliency_boxes against a sum for every box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops.saliency_boxes import saliency_boxes_reference

# Rows, columns, row bounds, column bounds.
CASES = {
    "one": (1, 1, [1], [1]),
    "odd": (7, 13, [3, 7], [1, 5, 13]),
    "whole": (100, 65, [100], [65]),
    "unordered": (70, 33, [64, 0, 70, 64, 1], [33, 2, 0, 2]),
    "inside": (70, 33, [40], [20, 10]),
    "every": (5, 6, range(6), range(7)),
    "long": (3, 5000, [1, 3], [4999, 2500]),
    "wide": (33, 4096, [17, 33], [1030, 4096]),
    "within words": (40, 64, [40], [5, 30, 31, 64]),
    "many rows": (70, 9, range(1, 71), [9]),
    "many columns": (5, 70, [5], range(71)),
    "autoformer": (3 * 64, 240, [64, 128, 192], [192, 216, 240]),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def make(rows: int, cols: int, *, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + cols)
    weight, grad = torch.randn(2, rows, cols, generator=generator)
    return (weight * 0.1).to(device, dtype), grad.to(device, dtype)


def assert_matches(weight, grad, rows, cols) -> None:
    boxes = ops.saliency_boxes(weight, grad, rows, cols)
    assert boxes.dtype == torch.float64
    rtol = 1e-13 if weight.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(boxes, saliency_boxes_reference(weight, grad, rows, cols), rtol=rtol, atol=1e-12)


@cases
def test_matches_reference(case, device, dtype):
    rows, cols, row_bounds, col_bounds = case
    assert_matches(*make(rows, cols, device=device, dtype=dtype), row_bounds, col_bounds)


def test_naive_loops(device):
    """PreNAS eq. 4 for the parameters of a box, written out."""
    weight, grad = make(4, 3, device=device, dtype=torch.float64)
    total = 0.0
    for row in range(2):
        for col in range(3):
            total += abs(float(weight[row, col]) * float(grad[row, col]))
    assert float(ops.saliency_boxes(weight, grad, [2], [3])) == pytest.approx(total, rel=1e-14)


def test_exact_on_whole_numbers(device, dtype):
    """Whole numbers leave nothing to rounding: each element is counted exactly once in every box that holds it."""
    weight = torch.arange(70 * 37, device=device).view(70, 37).remainder(5).sub(2).to(dtype)
    grad = torch.full_like(weight, 3)
    rows, cols = [0, 31, 32, 33, 64, 70], [1, 8, 16, 36, 37]
    assert torch.equal(ops.saliency_boxes(weight, grad, rows, cols), saliency_boxes_reference(weight, grad, rows, cols))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_empty_matrix(shape, device, dtype):
    weight, grad = make(*shape, device=device, dtype=dtype)
    boxes = ops.saliency_boxes(weight, grad, [0, shape[0]], [shape[1]])
    assert boxes.tolist() == [[0.0], [0.0]]


def test_no_bounds(device):
    weight, grad = make(4, 5, device=device, dtype=torch.float32)
    assert ops.saliency_boxes(weight, grad, [], [1, 2]).shape == (0, 2)
    assert ops.saliency_boxes(weight, grad, [1], []).shape == (1, 0)
    assert ops.saliency_boxes(weight, grad, [0], [0]).tolist() == [[0.0]]


def test_strided(device, dtype):
    weight, grad = make(99, 60, device=device, dtype=dtype)
    assert_matches(weight[1::3], grad[1::3], [10, 33], [20, 60])
    assert_matches(weight[1::3, :40], grad[1::3, 8:48], [10, 33], [20, 40])
    assert_matches(weight[::3, 7:50], grad[2::3, 10:53], [10, 33], [20, 43])
    assert_matches(weight[:, ::2], grad[:, 1::2], [10, 99], [20, 30])
    assert_matches(weight.T, grad.T, [20, 60], [10, 99])
    assert_matches(weight[:1].expand(40, 60), grad[:40], [20, 40], [60])
    assert_matches(weight[:, :1].expand(99, 60), grad, [20, 40], [60])


def test_interleaved_rows_are_not_copied(monkeypatch):
    """Query, key and value rows interleave in PreNAS: every third row is read in place."""
    weight, grad = make(96, 40, device="cpu", dtype=torch.float32)

    def refuse(tensor):
        raise AssertionError("copied")

    monkeypatch.setattr(torch.Tensor, "contiguous", refuse)
    assert_matches(weight[2::3], grad[2::3], [16, 32], [40])


def test_nan_only_in_the_boxes_that_hold_it(device):
    weight, grad = make(40, 40, device=device, dtype=torch.float32)
    grad[33, 20] = float("nan")
    boxes = ops.saliency_boxes(weight, grad, [33, 34], [20, 21])
    assert boxes.isnan().tolist() == [[False, False], [False, True]]


def test_thread_count_changes_nothing(one_or_two_threads):
    weight, grad = make(500, 100, device="cpu", dtype=torch.float32)
    one, two = one_or_two_threads(lambda: ops.saliency_boxes(weight, grad, [100, 499], [33, 100]))
    assert torch.equal(one, two)


def test_refuses_gradients(device):
    weight, grad = make(4, 5, device=device, dtype=torch.float32)
    weight.requires_grad_()
    with pytest.raises(InputError, match=r"\[saliency_boxes\] expected weight without requires_grad"):
        ops.saliency_boxes(weight, grad, [4], [5])
    with torch.no_grad():
        assert_matches(weight, grad, [4], [5])


@pytest.mark.slow
def test_more_than_2_31_elements():
    weight = torch.zeros(2**16 + 1, 2**15, dtype=torch.bfloat16)  # untouched pages of zeros need no memory
    weight[-1, -1], weight[0, 0] = 3, 2
    grad = torch.full((1, 1), -2.0, dtype=torch.bfloat16).expand(1, weight.shape[1]).contiguous().expand_as(weight)
    boxes = ops.saliency_boxes(weight, grad, [2**16, 2**16 + 1], [2**15 - 1, 2**15])
    assert boxes.tolist() == [[4.0, 4.0], [4.0, 10.0]]


def test_opcheck(device, dtype):
    weight, grad = make(6, 7, device=device, dtype=dtype)
    torch.library.opcheck(torch.ops.pynas.saliency_boxes, (weight, grad, [3, 6], [7, 2]))


def test_compiles_as_one_graph(device):
    weight, grad = make(6, 7, device=device, dtype=torch.float32)
    compiled = torch.compile(
        lambda w, g: ops.saliency_boxes(w * 2, g, [3, 6], [7, 2]) + 1, fullgraph=True, backend="aot_eager"
    )
    expected = saliency_boxes_reference(weight * 2, grad, [3, 6], [7, 2]) + 1
    torch.testing.assert_close(compiled(weight, grad), expected, rtol=2e-6, atol=0)


def test_exports(device):
    class Boxes(torch.nn.Module):
        def forward(self, weight, grad):
            return ops.saliency_boxes(weight, grad, [3, 6], [7, 2])

    weight, grad = make(6, 7, device=device, dtype=torch.float32)
    program = torch.export.export(Boxes(), (weight, grad))
    torch.testing.assert_close(program.module()(weight, grad), ops.saliency_boxes(weight, grad, [3, 6], [7, 2]))


def test_bad_input(device):
    weight, grad = make(6, 7, device=device, dtype=torch.float32)
    for arguments, message in [
        ((weight[0], grad, [1], [1]), r"weight of shape \[R, C\], got \[7\]"),
        ((weight, grad[:2], [1], [1]), r"grad of shape \[6, 7\], got \[2, 7\]"),
        ((weight, grad.double(), [1], [1]), "grad of dtype torch.float32, got torch.float64"),
        ((weight.int(), grad, [1], [1]), "weight of dtype float32, float64, float16 or bfloat16, got torch.int32"),
        ((weight, grad.to("meta"), [1], [1]), f"grad on {device}.*, got meta"),
        ((weight, grad, [7], [1]), "rows between 0 and 6, got 7"),
        ((weight, grad, [-1], [1]), "rows between 0 and 6, got -1"),
        ((weight, grad, [1], [3, 8]), "cols between 0 and 7, got 8"),
        ((weight, grad, [1.5], [3]), r"rows to be a sequence of integers, got \[1.5\]"),
        ((weight, grad, [1], 3), "cols to be a sequence of integers, got 3"),
    ]:
        with pytest.raises(InputError, match=r"\[saliency_boxes\] expected " + message):
            ops.saliency_boxes(*arguments)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz(data, device):
    """Random shapes, strides, dtypes and bounds: the right answer or an InputError."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    rows, cols = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 40))
    steps = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    inputs = [x[:: steps[0], :: steps[1]] for x in make(rows * steps[0], cols * steps[1], device=device, dtype=dtype)]
    if data.draw(st.booleans()):
        inputs[1] = inputs[1].T.contiguous().T
    slack = data.draw(st.sampled_from([0, 0, 0, 1]))
    bounds = [data.draw(st.lists(st.integers(-slack, size + slack), max_size=6)) for size in (rows, cols)]
    if all(0 <= bound <= size for size, values in zip((rows, cols), bounds) for bound in values):
        assert_matches(*inputs, *bounds)
    else:
        with pytest.raises(InputError):
            ops.saliency_boxes(*inputs, *bounds)
