"""depthwise_conv2d against torch's convolution with one group per channel, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas import ops
from pynas.errors import InputError
from pynas.ops import _library

# Batch, channels, height, width, kernel, stride, padding: channels left over, small and large maps, several pieces of a map.
CASES = [(3, 16, 8, 8, 5, 1, 2), (9, 40, 7, 9, 7, 1, 3), (2, 70, 12, 10, 5, 2, 2), (17, 3, 8, 9, 7, 3, 0), (1, 33, 61, 40, 5, 1, 4),
         (2, 20, 70, 130, 7, 2, 3), (2, 5, 1, 1, 5, 1, 2), (1, 8, 20, 160, 5, 3, 1)]  # fmt: skip
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 1e-2}


def gradients(function, x, weight, gradient) -> list[torch.Tensor]:
    x, weight = (tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (x, weight))
    y = function(x, weight)
    y.backward(gradient)
    return [y.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_torch(case, layout, dtype):
    batch, channels, height, width, kernel, stride, padding = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator).to(dtype)
    expected = F.conv2d(x.double(), weight.double(), None, stride, padding, groups=channels)
    gradient = torch.randn(expected.shape, generator=generator).to(dtype)
    wanted = gradients(lambda x, w: F.conv2d(x, w, None, stride, padding, groups=channels),
                       x.double(), weight.double(), gradient.double())  # fmt: skip
    for ours, right in zip(
        gradients(lambda x, w: ops.depthwise_conv2d(x, w, stride, padding), x, weight, gradient), wanted
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=TOLERANCES[dtype] * right.abs().max().item())


def test_the_kernel_takes_wide_vectors_of_channels_and_torch_the_rest(monkeypatch):
    calls, kernel = [], _library.run
    monkeypatch.setattr(
        _library, "run", lambda name, **fields: (calls.append(fields["kernel"]), kernel(name, **fields))
    )
    for layout, size, columns in ((torch.channels_last, 5, 9), (torch.channels_last, 3, 9), (torch.contiguous_format, 5, 9),
                                  (torch.channels_last, 7, 400)):  # fmt: skip
        x = torch.randn(2, 4, 9, columns).contiguous(memory_format=layout)
        weight = torch.randn(4, 1, size, size, requires_grad=True)
        ops.depthwise_conv2d(x, weight, 1, size // 2).sum().backward()
    assert calls == [5]


def test_gradcheck():
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *tensors: ops.depthwise_conv2d(*tensors, 2, 2), (x, weight))
    assert torch.autograd.gradgradcheck(lambda *tensors: ops.depthwise_conv2d(*tensors, 2, 2), (x, weight))


def test_only_the_gradients_that_are_asked_for():
    x, weight = (
        torch.randn(2, 3, 6, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 1, 5, 5, requires_grad=True),
    )
    ops.depthwise_conv2d(x, weight, 1, 2).sum().backward()
    assert weight.grad is not None and x.grad is None


def test_opcheck():
    x, gradient = (torch.randn(2, 20, 6, 5).contiguous(memory_format=torch.channels_last) for _ in range(2))
    torch.library.opcheck(torch.ops.pynas.depthwise_weight_gradient, (x, gradient, 5, 1, 2))


def test_compile():
    x = torch.randn(2, 20, 6, 5).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(20, 1, 5, 5, requires_grad=True)
    function = lambda w: ops.depthwise_conv2d(x, w, 1, 2).square().sum()  # noqa: E731
    (expected,) = torch.autograd.grad(function(weight), weight)
    torch.testing.assert_close(
        torch.autograd.grad(torch.compile(function, backend="aot_eager")(weight), weight)[0], expected
    )


def test_thread_count_changes_nothing(one_or_two_threads):
    x, gradient = (torch.randn(19, 70, 9, 9).contiguous(memory_format=torch.channels_last) for _ in range(2))
    one, two = one_or_two_threads(lambda: torch.ops.pynas.depthwise_weight_gradient(x, gradient, 7, 1, 3))
    assert torch.equal(one, two)


BAD = [
    ("x of shape", {"x": torch.zeros(3, 6, 6)}),
    ("weight of shape", {"weight": torch.zeros(4, 1, 5, 5)}),
    ("weight of shape", {"weight": torch.zeros(3, 1, 5, 3)}),
    ("weight of dtype", {"weight": torch.zeros(3, 1, 5, 5).half()}),
    ("a stride of at least 1", {"stride": 0}),
    ("no negative padding", {"padding": -1}),
    ("at least 5 rows", {"x": torch.zeros(2, 3, 4, 9), "padding": 0}),
]


@pytest.mark.parametrize(("message", "changed"), BAD)
def test_bad_input(message, changed):
    with pytest.raises(InputError, match=rf"\[depthwise_conv2d\] expected.*{message}"):
        ops.depthwise_conv2d(
            **{"x": torch.zeros(2, 3, 6, 6), "weight": torch.zeros(3, 1, 5, 5), "stride": 1, "padding": 2} | changed
        )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_fuzz_of_the_kernel(data):
    """Any shapes and settings: the gradient of torch, or an InputError; nothing native is trusted with a size."""
    draw = data.draw
    batch, channels, height, width = (draw(st.integers(0, most)) for most in (18, 40, 12, 12))
    kernel, stride, padding = draw(st.sampled_from([3, 5, 5, 7, 7])), draw(st.integers(-1, 3)), draw(st.integers(-1, 4))
    sides = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)] if stride > 0 else [1, 1]
    wrong = draw(st.sampled_from([0, 0, 0, 0, 1]))
    shape = (batch, channels, max(sides[0], 0) + wrong, max(sides[1], 0))
    x, gradient = torch.randn(batch, channels, height, width), torch.randn(shape)
    call = lambda: torch.ops.pynas.depthwise_weight_gradient(x, gradient, kernel, stride, padding)  # noqa: E731
    if kernel == 3 or stride < 1 or padding < 0 or wrong or min(sides) < 1:
        with pytest.raises(InputError, match="depthwise_weight_gradient"):
            call()
        return
    weight = torch.zeros(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    if x.numel():
        F.conv2d(x.double(), weight, None, stride, padding, groups=channels).backward(gradient.double())
    expected = torch.zeros(weight.shape) if weight.grad is None else weight.grad.float()
    torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
