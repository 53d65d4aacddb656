"""The gradients and running averages of path_batch_norm against torch's batch norm and against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops._path_batch_norm import ACTIVATIONS, path_batch_norm_reference

# Each is a branch of a kernel: few channels and many, rows left over, words that channels share, several pieces of a channel.
SHAPES = [(9, 3), (8, 6, 5, 3), (4, 3, 1, 1), (3, 70, 9, 8), (4, 520, 3, 3), (2, 24, 7, 7), (3, 2, 61, 61), (2, 8, 2, 3, 4),
          (5, 16, 30, 30), (6, 5, 7)]  # fmt: skip
FORMATS = {"contiguous": None, "channels_last": {4: torch.channels_last, 5: torch.channels_last_3d}}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ACTIVATE = {None: lambda y: y, "relu": F.relu, "silu": F.silu}


def inputs(shape, layout, device, dtype=torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(shift: float = 0.0) -> torch.Tensor:
        drawn = (torch.randn(shape, generator=generator) + shift).to(device, dtype)
        formats = FORMATS[layout]
        return drawn.contiguous(memory_format=formats[drawn.dim()]) if formats and drawn.dim() in formats else drawn

    kind = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (torch.rand(shape[1], generator=generator).to(device, kind) + 0.5 for _ in range(2))
    return {"x": draw(3.0), "weight": weight, "bias": bias, "residual": draw(), "gradient": draw()}


def gradients(function, tensors, names) -> list[torch.Tensor]:
    leaves = {name: tensors[name].detach().clone().requires_grad_() for name in names}
    y = function({**tensors, **leaves})
    y.backward(tensors["gradient"].to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves.values())]


def by_torch(tensors, activation, with_residual) -> torch.Tensor:
    y = F.batch_norm(tensors["x"], None, None, tensors["weight"], tensors["bias"], True)
    return ACTIVATE[activation](y + tensors["residual"] if with_residual else y)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_torch(shape, activation, with_residual, layout, dtype, device):
    tensors = inputs(shape, layout, device, dtype)
    names = ["x", "weight", "bias", *(["residual"] if with_residual else [])]
    ours = gradients(
        lambda t: ops.path_batch_norm(
            t["x"], 1, t["weight"], t["bias"], 1e-5, activation, t["residual"] if with_residual else None
        )[0],
        tensors, names,
    )  # fmt: skip
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    for name, got, wanted in zip(
        ["y", *names], ours, gradients(lambda t: by_torch(t, activation, with_residual), exact, names)
    ):
        assert got.dtype == tensors.get(name, tensors["x"]).dtype
        if got.shape == shape:
            assert got.stride() == tensors["x"].stride()
        scale = wanted.abs().max().item() + 1e-3
        torch.testing.assert_close(
            got.double(), wanted, rtol=0, atol=TOLERANCES[dtype] * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("activation", "with_residual"), [(None, True), ("silu", False), ("silu", True)])
@pytest.mark.parametrize("given", [False, True], ids=["batch", "given"])
def test_gradcheck(given, activation, with_residual, layout, device):
    """Two paths, first and second derivatives against finite differences."""
    tensors = inputs((6, 3, 2, 2), layout, device)
    statistics = (
        {"mean": torch.randn(2, 3).double().to(device), "var": torch.rand(2, 3).double().to(device) + 0.5}
        if given
        else {}
    )

    def function(x, weight, bias, residual):
        residual = residual if with_residual else None
        return ops.path_batch_norm(x, 2, weight, bias, 1e-3, activation, residual, **statistics)[0]

    leaves = [tensors[name].requires_grad_() for name in ("x", "weight", "bias", "residual")]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_a_second_pass_over_the_residual_alone(device):
    x, residual = (inputs((4, 3, 2, 2), "contiguous", device)[name] for name in ("x", "residual"))
    y = ops.path_batch_norm(x, 1, residual=residual.requires_grad_())[0]
    assert torch.equal(torch.autograd.grad(y, residual, torch.ones_like(y), create_graph=True)[0], torch.ones_like(y))


def test_relu_passes_no_gradient_where_it_is_zero(device):
    x = torch.tensor([[-1.0], [1.0], [-3.0], [3.0]], device=device, requires_grad=True)
    zero = torch.zeros(1, 1, device=device)
    ops.path_batch_norm(x, 1, eps=0.0, activation="relu", mean=zero, var=zero + 1)[0].sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("momentum", [0.1, 1.0])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_averages_as_torch(shape, layout, momentum, device):
    tensors = inputs(shape, layout, device, torch.float32)
    ours, theirs = (
        [torch.full((shape[1],), 0.3, device=device), torch.full((shape[1],), 2.0, device=device)] for _ in range(2)
    )
    for _ in range(3):
        F.batch_norm(tensors["x"], *theirs, training=True, momentum=momentum)
        ops.path_batch_norm(tensors["x"], 1, running_mean=ours[0], running_var=ours[1], momentum=momentum)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("with_gradient", [["x"], ["weight"], ["residual"], ["bias", "residual"]], ids=str)
def test_only_the_gradients_that_are_asked_for(with_gradient, device):
    tensors = inputs((4, 5, 3, 3), "contiguous", device)
    leaves = {name: tensors[name].requires_grad_(name in with_gradient) for name in ("x", "weight", "bias", "residual")}
    y = ops.path_batch_norm(leaves["x"], 2, leaves["weight"], leaves["bias"], 1e-5, "silu", leaves["residual"])[0]
    y.square().sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == sorted(
        with_gradient, key=list(leaves).index
    )


def test_paths_are_normalised_apart(device):
    tensors = inputs((6, 5, 4, 4), "contiguous", device)
    names = ["x", "weight", "bias"]
    stacked = gradients(
        lambda t: ops.path_batch_norm(t["x"], 3, t["weight"], t["bias"], activation="silu")[0], tensors, names
    )
    parts = [gradients(lambda t: by_torch(t, "silu", False),
                       {**tensors, "x": x, "gradient": gradient}, names)
             for x, gradient in zip(tensors["x"].chunk(3), tensors["gradient"].chunk(3))]  # fmt: skip
    torch.testing.assert_close(stacked[:2], [torch.cat([part[i] for part in parts]) for i in range(2)])
    torch.testing.assert_close(stacked[2:], [sum(part[i] for part in parts) for i in (2, 3)])


def test_a_gradient_in_another_layout(device):
    tensors = inputs((4, 6, 5, 5), "channels_last", device)
    x = tensors["x"].requires_grad_()
    ops.path_batch_norm(x, 1, activation="silu")[0].mean().backward()  # an expanded gradient
    expected = torch.autograd.grad(F.silu(F.batch_norm(x, None, None, training=True)).mean(), x)[0]
    torch.testing.assert_close(x.grad, expected)


def test_empty(device):
    x = torch.zeros((0, 3, 4, 4), device=device, requires_grad=True)
    ops.path_batch_norm(x, 1)[0].sum().backward()
    assert x.grad.shape == x.shape


def test_statistics_have_no_gradient(device):
    x = inputs((4, 6, 5, 5), "contiguous", device)["x"].requires_grad_()
    _, mean, var = ops.path_batch_norm(x, 1)
    assert not mean.requires_grad and not var.requires_grad


def test_nan_stays_in_its_channel(device):
    tensors = inputs((4, 3, 5, 5), "channels_last", device, torch.float32)
    tensors["gradient"][0, 1, 2, 2] = float("nan")
    x_gradient = gradients(lambda t: ops.path_batch_norm(t["x"], 2, activation="silu")[0], tensors, ["x"])[1]
    assert (
        x_gradient[:2, 1].isnan().all() and x_gradient[2:].isfinite().all() and x_gradient[:, [0, 2]].isfinite().all()
    )


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
def test_opcheck(with_residual, layout, device):
    tensors = inputs((4, 6, 5, 5), layout, device, torch.float32)
    statistics = torch.zeros(2, 6, device=device), torch.ones(2, 6, device=device)
    residual = tensors["residual"] if with_residual else None
    arguments = (
        tensors["gradient"],
        tensors["x"],
        2,
        tensors["weight"],
        None,
        1e-5,
        "silu",
        residual,
        *statistics,
        False,
    )
    torch.library.opcheck(torch.ops.pynas.path_batch_norm_backward, arguments)
    averages = (torch.zeros(6, device=device), torch.ones(6, device=device), 0.1)
    torch.library.opcheck(
        torch.ops.pynas.path_batch_norm,
        (tensors["x"], 1, tensors["weight"], None, 1e-5, "silu", residual, None, None, *averages),
    )


def test_compile(device):
    tensors = inputs((4, 6, 5, 5), "contiguous", device, torch.float32)
    x, residual = tensors["x"].requires_grad_(), tensors["residual"].requires_grad_()
    function = lambda x, residual: ops.path_batch_norm(x * 2, 2, None, None, 1e-5, "silu", residual)[0].square().sum()  # noqa: E731
    expected = torch.autograd.grad(function(x, residual), (x, residual))
    got = torch.autograd.grad(torch.compile(function, backend="aot_eager")(x, residual), (x, residual))
    torch.testing.assert_close(got, expected)


def test_thread_count_changes_nothing(one_or_two_threads):
    for layout in FORMATS:
        tensors = inputs((8, 130, 12, 12), layout, "cpu", torch.float32)
        one, two = one_or_two_threads(
            lambda t=tensors: gradients(
                lambda t: ops.path_batch_norm(t["x"], 2, t["weight"], activation="silu")[0], t, ["x", "weight"]
            )
        )
        assert all(torch.equal(a, b) for a, b in zip(one, two))


BAD = [
    ("y_gradient of x's shape", {"y_gradient": torch.zeros(4, 2)}),
    ("y_gradient of dtype", {"y_gradient": torch.zeros(4, 3).half()}),
    (r"mean of shape \[2, 3\]", {"mean": torch.zeros(3)}),
    ("multiple of 3", {"paths": 3}),
]


@pytest.mark.parametrize(("message", "changed"), BAD)
def test_bad_input(message, changed):
    arguments = {"y_gradient": torch.zeros(4, 3), "x": torch.zeros(4, 3), "paths": 2, "weight": None, "bias": None, "eps": 1e-5,
                 "activation": None, "residual": None, "mean": torch.zeros(2, 3), "var": torch.ones(2, 3),
                 "statistics_given": False} | changed  # fmt: skip
    with pytest.raises(InputError, match=rf"\[path_batch_norm_backward\] expected.*{message}"):
        torch.ops.pynas.path_batch_norm_backward(**arguments)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzz(data, call_on, draw_tensor):
    """Any shapes, layouts, strides, dtypes and options: the gradients of plain torch in float64."""
    draw = data.draw
    paths, batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    shape = (paths * batch, channels, *draw(st.lists(st.integers(1, 7), max_size=3)))
    dtype = draw(st.sampled_from(list(TOLERANCES)))
    x, gradient = draw_tensor(draw, shape, dtype), draw_tensor(draw, shape, dtype)
    residual = draw_tensor(draw, shape, dtype) if draw(st.booleans()) else None
    weight = draw_tensor(draw, (channels,), dtype) if draw(st.booleans()) else None
    activation = draw(st.sampled_from(ACTIVATIONS))
    given_statistics = {}
    if draw(st.booleans()):
        given_statistics = {"mean": torch.randn(paths, channels), "var": torch.rand(paths, channels) + 0.1}
    with call_on(draw(st.sampled_from(["cpu", "cuda_host"]))):
        leaves = [x.detach().requires_grad_(), None if residual is None else residual.detach().requires_grad_()]
        y = ops.path_batch_norm(leaves[0], paths, weight, None, 0.1, activation, leaves[1], **given_statistics)[0]
        y.backward(gradient)
    exact = [None if leaf is None else leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = path_batch_norm_reference(exact[0], paths, weight, None, 0.1, activation, exact[1], **given_statistics)[0]
    wanted.backward(gradient.double())
    for got, right in zip(leaves, exact):
        if got is not None:
            scale = right.grad.abs().max().item() + 1
            torch.testing.assert_close(got.grad.double(), right.grad, rtol=0, atol=3 * TOLERANCES[dtype] * scale)
