"""path_batch_norm against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops._path_batch_norm import ACTIVATIONS, path_batch_norm_reference

# Paths, then the shape of x. Each is a branch of the CUDA kernels, in one layout or both.
CASES = [
    (1, (2, 1)),
    (2, (6, 33)),
    (2, (4, 3, 1, 1)),
    (3, (6, 5, 7)),
    (4, (8, 6, 5, 3)),
    (2, (6, 70, 9, 8)),
    (1, (3, 130, 4, 4)),
    (2, (10, 8, 2, 3, 4)),
    (2, (2, 8, 5, 5)),  # one sample per path
    (2, (6, 24, 7, 7)),  # words that two channels share; three tiles
    (2, (4, 20, 6, 6)),  # elements in half words; a tile with channels left over
    (2, (4, 16, 1, 3)),  # words of more than two channels
    (1, (32, 3, 12, 12)),  # fewer channels in a block than warps
    (1, (5, 9, 22, 20)),  # channels-last: a narrow tile
    (1, (9, 2, 61, 61)),  # contiguous: alone on a multiprocessor; channels-last: two readings
    (1, (5, 2, 100, 99)),
    (1, (3, 16, 104, 100)),  # two readings, whole words
]
FORMATS = {"contiguous": None, "channels_last": {4: torch.channels_last, 5: torch.channels_last_3d}}


def make(shape, device, dtype, layout="contiguous", seed=0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3
    x = x.to(device, dtype)
    formats = FORMATS[layout]
    return x.contiguous(memory_format=formats[x.dim()]) if formats and x.dim() in formats else x


def parameters(channels: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    return weight.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("activation", "with_residual"), [(None, False), (None, True), ("relu", True), ("silu", False), ("silu", True)]
)
@pytest.mark.parametrize(("paths", "shape"), CASES, ids=str)
def test_matches_reference(paths, shape, activation, with_residual, layout, device, dtype, tolerance):
    x = make(shape, device, dtype, layout)
    weight, bias = parameters(shape[1], device, dtype)
    residual = make(shape, device, dtype, layout, seed=2) if with_residual else None
    y, mean, var = ops.path_batch_norm(x, paths, weight, bias, 1e-3, activation, residual)
    expected, expected_mean, expected_var = path_batch_norm_reference(
        x, paths, weight, bias, 1e-3, activation, residual
    )
    assert y.dtype == x.dtype and y.stride() == x.stride()
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    assert mean.dtype == var.dtype == statistics and mean.shape == var.shape == (paths, shape[1])
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * tolerance, atol=2 * tolerance)
    accuracy = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(mean, expected_mean.to(statistics), rtol=accuracy, atol=accuracy)
    torch.testing.assert_close(var, expected_var.to(statistics), rtol=accuracy, atol=accuracy)


def test_is_batch_norm_of_each_path(device):
    x, (weight, bias) = make((12, 5, 4, 4), device, torch.float32), parameters(5, device, torch.float32)
    expected = torch.cat([F.silu(F.batch_norm(part, None, None, weight, bias, True)) for part in x.chunk(3)])
    torch.testing.assert_close(ops.path_batch_norm(x, 3, weight, bias, activation="silu")[0], expected)


def test_given_statistics(device, dtype, tolerance):
    x, residual = make((6, 5, 4, 4), device, dtype), make((6, 5, 4, 4), device, dtype, seed=3)
    mean, var = torch.randn(2, 5).to(device), torch.rand(2, 5).to(device)
    y, same_mean, same_var = ops.path_batch_norm(x, 2, None, None, 1e-5, "relu", residual, mean=mean, var=var)
    assert same_mean is mean and same_var is var
    expected = path_batch_norm_reference(x, 2, None, None, 1e-5, "relu", residual, mean=mean, var=var)[0]
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("where", ["fresh", "x", "residual"])
@pytest.mark.parametrize("layout", FORMATS)
def test_out(where, layout, device):
    x, residual = (make((6, 70, 4, 4), device, torch.float32, layout, seed) for seed in (0, 4))
    weight, bias = parameters(70, device, torch.float32)
    expected = ops.path_batch_norm(x, 2, weight, bias, 1e-5, "silu", residual)
    out = {"fresh": torch.empty_like(x), "x": x, "residual": residual}[where]
    y, mean, var = ops.path_batch_norm(x, 2, weight, bias, 1e-5, "silu", residual, out=out)
    assert y is out
    for got, wanted in zip((y, mean, var), expected):
        assert torch.equal(got, wanted)


def test_large_mean_keeps_the_variance(device):
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 1000
    _, _, var = ops.path_batch_norm(x.to(device), 2)
    _, _, expected = path_batch_norm_reference(x, 2)
    torch.testing.assert_close(var.cpu().double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("layout", FORMATS)
def test_outliers_at_the_start_keep_the_variance(layout, device):
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x[0, :, 0, :9] += 100
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    _, _, var = ops.path_batch_norm(x.to(device), 1)
    _, _, expected = path_batch_norm_reference(x, 1)
    torch.testing.assert_close(var.cpu().double(), expected, rtol=1e-4, atol=0)


def test_strided_inputs(device):
    x = make((4, 6, 10, 8), device, torch.float32)[:, ::2, 1:8, ::3]
    residual = make((4, 3, 3, 7), device, torch.float32).transpose(2, 3)
    weight = torch.rand(6).to(device)[::2]
    y = ops.path_batch_norm(x, 2, weight, None, 1e-5, None, residual)[0]
    expected = path_batch_norm_reference(x, 2, weight, None, 1e-5, None, residual)[0]
    torch.testing.assert_close(y, expected.float())


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (4, 3, 0, 4)])
def test_empty(shape, device):
    y, mean, var = ops.path_batch_norm(torch.zeros(shape, device=device), 2)
    assert y.shape == shape and mean.isnan().all() and var.isnan().all() and mean.shape == (2, 3)


@pytest.mark.cuda
@pytest.mark.parametrize("layout", FORMATS)
def test_more_than_two_to_the_31_elements(layout):
    x = torch.randn(4, 2**15, 128, 129, device="cuda", dtype=torch.float16)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    y, mean, var = ops.path_batch_norm(x, 2, activation="relu", out=x.clone())
    last = ops.path_batch_norm(x[2:], 1, activation="relu")
    assert torch.equal(y[2:], last[0]) and torch.equal(mean[1:], last[1]) and torch.equal(var[1:], last[2])


def test_nan_stays_in_its_channel(device):
    x = make((4, 3, 5, 5), device, torch.float32)
    x[0, 1, 2, 2] = float("nan")
    y = ops.path_batch_norm(x, 2, activation="silu")[0]
    assert y[:2, 1].isnan().all()
    assert y[2:].isfinite().all() and y[:, [0, 2]].isfinite().all()


def test_silu_over_its_whole_range(device):
    x = torch.linspace(-200, 200, 80001, device=device)[:, None]
    zero = torch.zeros(1, 1, device=device)
    y = ops.path_batch_norm(x, 1, eps=0.0, activation="silu", mean=zero, var=zero + 1)[0]
    torch.testing.assert_close(y, F.silu(x.double()).float(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", ["mean", "running_mean", "out"])
def test_refuses_gradients(name, device):
    tensors = {"x": make((4, 3), device, torch.float32), "mean": None, "running_mean": None, "out": None}
    shape = {"mean": (2, 3), "running_mean": (3,), "out": (4, 3)}[name]
    tensors[name] = torch.zeros(shape, device=device, requires_grad=True)
    call = lambda: ops.path_batch_norm(tensors.pop("x"), 2, **tensors)  # noqa: E731
    with pytest.raises(InputError, match=rf"\[path_batch_norm\] expected {name} without requires_grad"):
        call()


BAD = [
    ("x of dtype", {"x": torch.zeros(4, 3, dtype=torch.int64)}),
    ("x of shape", {"x": torch.zeros(4)}),
    ("x to be a dense tensor", {"x": torch.zeros(4, 3).to_sparse()}),
    ("paths > 0", {"paths": 0}),
    ("multiple of 3", {"paths": 3}),
    ("eps to be finite", {"eps": float("nan")}),
    ("eps to be finite", {"eps": -1.0}),
    ("activation", {"activation": "gelu"}),
    ("mean and var both", {"mean": torch.zeros(2, 3)}),
    (r"weight of shape \[3\]", {"weight": torch.zeros(4)}),
    (r"bias of shape \[3\]", {"bias": torch.zeros(3, 1)}),
    (r"mean of shape \[2, 3\]", {"mean": torch.zeros(3), "var": torch.zeros(3)}),
    ("weight on cpu", {"weight": torch.zeros(3, device="meta")}),
    ("residual of x's shape", {"residual": torch.zeros(4, 1)}),
    ("residual of dtype torch.float32", {"residual": torch.zeros(4, 3, dtype=torch.float64)}),
    ("running_mean and running_var both", {"paths": 1, "running_mean": torch.zeros(3)}),
    ("running averages of one path", {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}),
    ("running_var contiguous", {"paths": 1, "running_mean": torch.zeros(3), "running_var": torch.ones(4)}),
    ("running_mean contiguous", {"paths": 1, "running_mean": torch.zeros(3).half(), "running_var": torch.ones(3)}),
    ("running_mean contiguous", {"paths": 1, "running_mean": torch.zeros(6)[::2], "running_var": torch.ones(3)}),
    (
        "more than one value",
        {"x": torch.zeros(1, 3), "paths": 1, "running_mean": torch.zeros(3), "running_var": torch.ones(3)},
    ),
    (
        "a finite momentum",
        {"paths": 1, "running_mean": torch.zeros(3), "running_var": torch.ones(3), "momentum": float("nan")},
    ),
    ("no out where a gradient", {"x": torch.zeros(4, 3, requires_grad=True), "out": torch.zeros(4, 3)}),
    ("out of x's shape", {"out": torch.zeros(4, 2)}),
    ("out of dtype", {"out": torch.zeros(4, 3, dtype=torch.half)}),
    ("out in x's layout", {"out": torch.zeros(3, 4).t()}),
    ("out in x's layout", {"out": torch.zeros(1, 3).expand(4, 3)}),
]


@pytest.mark.parametrize(("message", "arguments"), BAD)
def test_bad_input(message, arguments):
    with pytest.raises(InputError, match=rf"\[path_batch_norm\] expected.*{message}"):
        ops.path_batch_norm(**{"x": torch.zeros(4, 3), "paths": 2} | arguments)


@pytest.mark.parametrize("with_residual", [False, True])
def test_overlapping_output_is_refused(with_residual):
    buffer = torch.zeros(40)
    x, out = buffer[:12].view(4, 3), buffer[3:15].view(4, 3)
    residual = x if with_residual else None
    with pytest.raises(InputError, match=r"\[path_batch_norm\] expected out to be (x|residual) itself"):
        ops.path_batch_norm(x if residual is None else x.clone(), 2, residual=residual, out=out)


def arguments(device: str = "cpu", dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> list[tuple]:
    """Positional arguments of the operator: statistics of the batch, then given ones."""
    x, residual = make((4, 6, 3, 5), device, dtype, layout), make((4, 6, 3, 5), device, dtype, layout, seed=1)
    weight, bias = parameters(6, device, dtype)
    mean, var = torch.randn(2, 6, device=device), torch.rand(2, 6, device=device)
    return [
        (x, 2, weight, bias, 1e-5, "silu", residual, None, None),
        (x, 2, None, None, 1e-5, None, None, mean, var),
    ]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(layout, device, dtype):
    for case in arguments(device, dtype, layout):
        averages = (None, None, 0.1)
        torch.library.opcheck(torch.ops.pynas.path_batch_norm, (*case, *averages))
        torch.library.opcheck(torch.ops.pynas.path_batch_norm_, (*case, *averages, torch.empty_like(case[0])))


@pytest.mark.parametrize("into", [False, True], ids=["new", "out"])
def test_compile(into, device):
    def function(x, weight, residual):
        out = torch.empty_like(x) if into else None
        y, mean, var = ops.path_batch_norm(x * 2, 2, weight, None, 1e-5, "silu", residual, out=out)
        return y + 1, mean, var

    x, _, weight, _, _, _, residual, _, _ = arguments(device)[0]
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, residual), function(x, weight, residual))


def test_compile_with_dynamic_batch(device):
    compiled = torch.compile(lambda x: ops.path_batch_norm(x, 2)[0], fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (4, 8, 6):
        x = make((rows, 3, 2, 2), device, torch.float32)
        torch.testing.assert_close(compiled(x), ops.path_batch_norm(x, 2)[0])


class _Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.path_batch_norm(x, 2, activation="relu")[0]


def test_export(device):
    x = make((4, 3, 2, 2), device, torch.float32)
    program = torch.export.export(_Module(), (x,))
    torch.testing.assert_close(program.module()(x), _Module()(x))


def test_thread_count_changes_nothing(one_or_two_threads):
    x = make((8, 130, 6, 6), "cpu", torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        results = one_or_two_threads(lambda layout=layout: ops.path_batch_norm(x.contiguous(memory_format=layout), 2))
        for one, two in zip(*results):
            assert torch.equal(one, two)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzz(data, call_on, draw_tensor):
    """Any shapes, layouts, strides, dtypes and options: the right answer, or an InputError."""
    draw = data.draw
    paths, batch, channels = draw(st.integers(1, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 40))
    shape = (paths * batch, channels, *draw(st.lists(st.integers(0, 7), max_size=3)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    x, residual = draw_tensor(draw, shape, dtype), draw(st.booleans()) and draw_tensor(draw, shape, dtype)
    weight, bias = (draw_tensor(draw, (channels,), dtype) if draw(st.booleans()) else None for _ in range(2))
    activation, asked = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from([paths, paths, paths, 3]))
    options = (weight, bias, 0.1, activation, residual if residual is not False else None)
    with call_on(draw(st.sampled_from(["cpu", "cuda_host"]))):
        if shape[0] % asked:
            with pytest.raises(InputError):
                ops.path_batch_norm(x, asked, *options)
            return
        y, mean, var = ops.path_batch_norm(x, asked, *options)
    if x.numel() == 0:
        assert y.shape == x.shape and mean.isnan().all()
        return
    expected, expected_mean, expected_var = path_batch_norm_reference(x, asked, *options)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(dtype, 2e-5)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=1e-5)
