"""Elastic convolutions against plain ones whose weights are picked by index."""

import pytest
import torch
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.batch_norm import batch_norm_act
from pynas.nn.elastic import ElasticMBConv, sliced_conv
from pynas.nn.mbconv import MBConv


@pytest.fixture
def weights():
    torch.manual_seed(0)
    layer = MBConv(12, 16, 5, 3)
    for part in layer.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.weight)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return layer


def naive(weights, x, channels, kernel, residual):
    """A subnet's forward in evaluation mode, every weight picked by its index."""
    inputs, hidden, edge = x.shape[1], 3 * x.shape[1], (5 - kernel) // 2

    def norm(bn, y):
        c = y.shape[1]
        scale = bn.weight[:c] / (bn.running_var[:c] + bn.eps).sqrt()
        return (y - bn.running_mean[:c, None, None]) * scale[:, None, None] + bn.bias[:c, None, None]

    y = F.silu(
        norm(weights.expand.bn, torch.einsum("bihw,oi->bohw", x, weights.expand.conv.weight[:hidden, :inputs, 0, 0]))
    )
    centre = weights.depthwise.conv.weight[:hidden, 0, edge : edge + kernel, edge : edge + kernel]
    y = torch.stack(
        [F.conv2d(y[:, c : c + 1], centre[c][None, None], padding=kernel // 2)[:, 0] for c in range(hidden)], 1
    )
    y = F.silu(norm(weights.depthwise.bn, y))
    squeezed = (
        y.mean((2, 3)) @ weights.se.reduce.weight[: inputs // 4, :hidden, 0, 0].T
        + weights.se.reduce.bias[: inputs // 4]
    )
    gates = (
        F.silu(squeezed) @ weights.se.expand.weight[:hidden, : inputs // 4, 0, 0].T + weights.se.expand.bias[:hidden]
    )
    y = y * gates.sigmoid()[..., None, None]
    y = norm(
        weights.project.bn, torch.einsum("bihw,oi->bohw", y, weights.project.conv.weight[:channels, :hidden, 0, 0])
    )
    return x + y if residual else y


@pytest.mark.parametrize(
    ("inputs", "channels", "kernel"), [(12, 16, 5), (12, 12, 3), (8, 8, 5), (8, 10, 3), (4, 16, 1)]
)
def test_a_candidate_is_its_slices(weights, inputs, channels, kernel):
    candidate = ElasticMBConv(weights, channels, kernel, 3, 1).eval()
    x = torch.randn(2, inputs, 6, 6)
    expected = naive(weights, x, channels, kernel, inputs == channels)
    torch.testing.assert_close(candidate(x), expected, rtol=1e-4, atol=1e-5)
    plain = candidate.extract((inputs, 6, 6))
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)
    assert not {p.data_ptr() for p in plain.parameters()} & {p.data_ptr() for p in weights.parameters()}


def test_strides():
    weights = MBConv(8, 8, 3, 1, stride=2).eval()
    x = torch.randn(2, 6, 8, 8)
    candidate = ElasticMBConv(weights, 6, 3, 1, 2).eval()
    assert candidate(x).shape == (2, 6, 4, 4)
    torch.testing.assert_close(candidate(x), candidate.extract((6, 8, 8))(x))


def test_batch_norm_follows_the_leading_channels():
    shared, plain = torch.nn.BatchNorm2d(5), torch.nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 6, 6) + 2
    torch.testing.assert_close(batch_norm_act(shared, x, leading=True), plain(x))
    torch.testing.assert_close(shared.running_mean[:3], plain.running_mean)
    assert (shared.running_mean[3:] == 0).all() and (shared.running_var[3:] == 1).all()


def test_dense_convolutions():
    conv, x = torch.nn.Conv2d(6, 8, 5, 2), torch.randn(2, 4, 9, 9)
    expected = F.conv2d(x, conv.weight[:3, :4, 1:4, 1:4], conv.bias[:3], 2, 1)
    torch.testing.assert_close(sliced_conv(conv, x, 3, 3), expected)


@pytest.mark.parametrize(("channels", "kernel"), [(17, 3), (8, 7), (8, 2)])
def test_more_than_there_is_is_named(weights, channels, kernel):
    with pytest.raises(InputError, match="at most 16 channels and an odd kernel up to 5"):
        ElasticMBConv(weights, channels, kernel, 3, 1)
