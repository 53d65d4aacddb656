"""squeeze_excitation against torch's operators one by one, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops import _library

# Batch, channels, height, width, channels of the squeeze: bands of one row and of several, rows and lanes left over, two tiles
# of channels, several partial sums, a map of one element, no squeeze.
CASES = [(3, 16, 8, 8, 4), (2, 5, 7, 9, 1), (9, 33, 1, 1, 3), (2, 70, 61, 47, 9), (1, 1, 3, 4, 5), (5, 520, 5, 3, 33),
         (2, 3, 90, 90, 2), (4, 1030, 2, 2, 6), (2, 7, 4, 4, 0)]  # fmt: skip
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FORMATS = [torch.channels_last, torch.contiguous_format]
Tensors = list[torch.Tensor]


def naive(x, reduce_weight, reduce_bias, expand_weight, expand_bias) -> torch.Tensor:
    """The modules' formula, each channel a sum over its reduced ones."""
    squeezed = F.silu(torch.einsum("bchw,rc->br", x, reduce_weight.flatten(1)) / x[0, 0].numel() + reduce_bias)
    return (
        x * torch.sigmoid(torch.einsum("br,cr->bc", squeezed, expand_weight.flatten(1)) + expand_bias)[..., None, None]
    )


def inputs(case, layout=torch.channels_last, dtype=torch.float32, weights=None) -> tuple[Tensors, torch.Tensor]:
    """x, weights and biases; a gradient of y."""
    batch, channels, height, width, reduced = case
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    x, gradient = (draw(batch, channels, height, width).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    shapes = (reduced, channels, 1, 1), (reduced,), (channels, reduced, 1, 1), (channels,)
    return [x + 0.5, *(draw(*shape).to(weights or dtype) for shape in shapes)], gradient


def gradients(function, tensors, gradient) -> Tensors:
    leaves = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
    y = function(*leaves)
    y.backward(gradient.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.fixture
def kernels(monkeypatch) -> list[str]:
    """Names of the kernels that ran."""
    names, run = [], _library.run
    monkeypatch.setattr(_library, "run", lambda name, **fields: (names.append(name), run(name, **fields))[1])
    return names


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_torch(case, layout, dtype, kernels):
    tensors, gradient = inputs(case, layout, dtype)
    ours = gradients(ops.squeeze_excitation, tensors, gradient)
    assert kernels == ["squeeze_excitation", "squeeze_excitation_backward"]
    right = gradients(naive, [tensor.double() for tensor in tensors], gradient.double())
    for got, expected in zip(ours, right, strict=True):
        assert got.dtype == dtype and got.shape == expected.shape
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCES[dtype] * max(scale, 1.0))
    assert ours[0].is_contiguous(memory_format=layout) and ours[1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_half_types_take_weights_of_float32(layout):
    tensors, gradient = inputs((3, 24, 5, 5, 6), layout, torch.bfloat16, torch.float32)
    ours = gradients(ops.squeeze_excitation, tensors, gradient)
    right = gradients(naive, [tensor.double() for tensor in tensors], gradient.double())
    assert [tensor.dtype for tensor in ours] == 2 * [torch.bfloat16] + 4 * [torch.float32]
    for got, expected in zip(ours[2:], right[2:], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_gradcheck(layout, kernels):
    tensors, _ = inputs((2, 5, 3, 4, 2), layout, torch.float64)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(ops.squeeze_excitation, tensors) and "squeeze_excitation_backward" in kernels
    assert torch.autograd.gradgradcheck(ops.squeeze_excitation, tensors)


def test_second_derivatives_as_torch():
    found = []
    for function in (ops.squeeze_excitation, naive):
        tensors = [tensor.double().requires_grad_() for tensor in inputs((2, 6, 4, 5, 3))[0]]
        first = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
        found.append(torch.autograd.grad(sum(each.square().sum() for each in first), tensors))
    torch.testing.assert_close(found[0], found[1])


def test_only_the_gradients_that_are_asked_for():
    for wanted in range(5):
        tensors, gradient = inputs((2, 6, 4, 5, 3))
        expected = gradients(ops.squeeze_excitation, tensors, gradient)[1 + wanted]
        tensors[wanted].requires_grad_()
        ops.squeeze_excitation(*tensors).backward(gradient)
        assert torch.equal(tensors[wanted].grad, expected)
        assert all(tensor.grad is None for i, tensor in enumerate(tensors) if i != wanted)


def test_no_graph_without_a_need_of_one():
    tensors, _ = inputs((2, 6, 4, 5, 3))
    assert not ops.squeeze_excitation(*tensors).requires_grad
    with torch.no_grad():
        assert not ops.squeeze_excitation(*[tensor.requires_grad_() for tensor in tensors]).requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_values_that_are_not_finite_go_through_as_in_torch(layout, value):
    tensors, gradient = inputs((3, 40, 4, 4, 20), layout)
    tensors[0][1, 7, 2, 3] = value
    ours, right = gradients(ops.squeeze_excitation, tensors, gradient), gradients(naive, tensors, gradient)
    for got, expected in zip(ours, right, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3, equal_nan=True)
    y_gradient = gradient.clone()
    y_gradient[1, 7, 2, 3] = value
    tensors, _ = inputs((3, 40, 4, 4, 20), layout)
    ours, right = gradients(ops.squeeze_excitation, tensors, y_gradient), gradients(naive, tensors, y_gradient)
    for got, expected in zip(ours, right, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 0, 4, 4), (2, 6, 0, 4)], ids=str)
def test_empty(shape):
    tensors, gradient = inputs((*shape, 3))
    y, *found = gradients(ops.squeeze_excitation, tensors, gradient)
    assert y.shape == shape and [each.shape for each in found] == [tensor.shape for tensor in tensors]
    if shape[0] == 0:
        assert all((each == 0).all() for each in found)


@pytest.mark.parametrize(
    "change", [lambda x: x[:, :, ::2], lambda x: x[:, ::2].transpose(2, 3), lambda x: x[:1].expand(3, -1, -1, -1)]
)
def test_strided_inputs_and_gradients(change):  # fmt: skip
    tensors, gradient = inputs((3, 12, 6, 6, 4), dtype=torch.float64)
    tensors[0], gradient = change(tensors[0]), change(gradient)
    channels = tensors[0].shape[1]
    tensors[1], tensors[3], tensors[4] = tensors[1][:, :channels], tensors[3][:channels], tensors[4][:channels]
    leaves = [tensor.requires_grad_() for tensor in tensors]
    for function in (ops.squeeze_excitation, naive):
        found = torch.autograd.grad(function(*leaves), leaves, gradient)
        if function is ops.squeeze_excitation:
            ours = found
    torch.testing.assert_close(ours, found)
    ones = [torch.autograd.grad(function(*leaves).sum(), leaves) for function in (ops.squeeze_excitation, naive)]
    torch.testing.assert_close(ones[0], ones[1])


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_opcheck(layout):
    tensors, gradient = inputs((3, 12, 4, 5, 4), layout)
    torch.library.opcheck(torch.ops.pynas.squeeze_excitation, tensors)
    kept = torch.ops.pynas.squeeze_excitation(*tensors)[1]
    torch.library.opcheck(
        torch.ops.pynas.squeeze_excitation_backward, (gradient, tensors[0], tensors[1], tensors[3], kept)
    )


def test_compile():
    tensors, gradient = inputs((3, 12, 4, 5, 4))
    expected = gradients(ops.squeeze_excitation, tensors, gradient)
    compiled = gradients(torch.compile(ops.squeeze_excitation, backend="aot_eager"), tensors, gradient)
    torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_thread_count_changes_nothing(layout, one_or_two_threads):
    tensors, gradient = inputs((19, 70, 20, 20, 17), layout)
    one, two = one_or_two_threads(lambda: gradients(ops.squeeze_excitation, tensors, gradient))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.cuda
def test_cuda_takes_torch(kernels):
    tensors, gradient = inputs((3, 12, 4, 5, 4))
    expected = gradients(naive, tensors, gradient)
    found = gradients(ops.squeeze_excitation, [tensor.cuda() for tensor in tensors], gradient.cuda())
    torch.testing.assert_close([each.cpu() for each in found], expected)
    assert kernels == []


BAD = [
    ("x of shape", {"x": torch.zeros(6, 4, 4)}),
    ("x to be a tensor", {"x": None}),
    ("x of dtype", {"x": torch.zeros(2, 6, 4, 4, dtype=torch.int64)}),
    ("reduce_weight to be a tensor", {"reduce_weight": None}),
    ("reduce_weight of shape", {"reduce_weight": torch.zeros(3, 6, 1)}),
    ("reduce_weight of shape", {"reduce_weight": torch.zeros(3, 5)}),
    ("reduce_weight of shape", {"reduce_weight": torch.zeros(3, 6, 1, 2)}),
    ("reduce_bias of shape", {"reduce_bias": torch.zeros(4)}),
    ("reduce_bias to be a tensor", {"reduce_bias": None}),
    ("expand_weight of shape", {"expand_weight": torch.zeros(3, 6)}),
    ("expand_weight of dtype", {"expand_weight": torch.zeros(6, 3).long()}),
    ("expand_bias of shape", {"expand_bias": torch.zeros(6, 1)}),
    ("expand_bias on cpu", {"expand_bias": torch.zeros(6, device="meta")}),
]


@pytest.mark.parametrize(("message", "changed"), BAD)
def test_bad_input(message, changed):
    x, weights = torch.zeros(2, 6, 4, 4), {"reduce_weight": torch.zeros(3, 6), "expand_weight": torch.zeros(6, 3, 1, 1)}
    biases = {"reduce_bias": torch.zeros(3), "expand_bias": torch.zeros(6)}
    with pytest.raises(InputError, match=rf"\[squeeze_excitation\] expected {message}.*, got "):
        ops.squeeze_excitation(**{"x": x, **weights, **biases, **changed})


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_fuzz_of_the_kernels(data, draw_tensor):
    """Any shapes and layouts: the results of torch, or an InputError; nothing native is trusted with a size."""
    draw = data.draw
    batch, channels, height, width, reduced = (draw(st.integers(0, most)) for most in (4, 40, 7, 7, 9))
    shapes = [[batch, channels, height, width], [reduced, channels], [reduced], [channels, reduced], [channels]]
    shapes += [[*shapes[0]], [2 * batch * (channels + reduced)]]
    wrong = draw(st.sampled_from([None, None, None, *range(7)]))
    if wrong is not None:
        shapes[wrong][draw(st.integers(0, len(shapes[wrong]) - 1))] += 1
    x, *weights = (draw_tensor(draw, tuple(shape), torch.float64) for shape in shapes[:5])
    if wrong is None and x.numel():
        torch.testing.assert_close(ops.squeeze_excitation(x, *weights), naive(x, *weights))
    elif wrong is not None and 0 < wrong < 5:
        with pytest.raises(InputError, match="squeeze_excitation"):
            ops.squeeze_excitation(x, *weights)
    kept = torch.randn(shapes[6], dtype=torch.float64)
    call = lambda: torch.ops.pynas.squeeze_excitation_backward(  # noqa: E731
        draw_tensor(draw, tuple(shapes[5]), torch.float64), x, weights[0], weights[2], kept
    )
    if wrong is not None and wrong not in (2, 4):
        with pytest.raises(InputError, match="squeeze_excitation_backward"):
            call()
    elif wrong is None:
        assert [list(each.shape) for each in call()] == shapes[:5]
