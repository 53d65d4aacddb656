"""ResConv and ResAtt against the formulas written out."""

import math

import pytest
import torch
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.hytra import Bottleneck, stand_in


def randomised(module):
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.2, 0.9)
            tensor.data.mul_(torch.where(torch.rand_like(tensor) < 0.5, -1.0, 1.0) if tensor.dim() > 1 else 1)
    return module.eval()


def norm(x, bn):
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def attention(x, weight, heads):
    """Position by position, head by head."""
    q, k, v = F.conv2d(x, weight).flatten(2).chunk(3, 1)
    d = x.shape[1] // heads
    outputs = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        similar = torch.einsum("bdi,bdj->bij", q[:, part], k[:, part]) / math.sqrt(d)
        outputs.append(torch.einsum("bij,bdj->bdi", similar.softmax(-1), v[:, part]))
    return torch.cat(outputs, 1).reshape(x.shape)


def reference(x, net, operation, stride, width, out, se, act):
    middle, entry = out // 4, net.entries[str(width)]
    first = net.entries[next(iter(net.entries))]  # whose position encoding all share
    y = F.conv2d(x, entry.project.weight)
    y = F.conv2d(y, first.position.weight, first.position.bias, stride, 1, 1, middle)
    y = act(norm(y, entry.norm))
    y = (
        F.conv2d(y, net.mix.weight, None, 1, 1)
        if operation == "conv"
        else attention(y, net.mix.qkv.weight, middle // 8)
    )
    y = norm(F.conv2d(act(norm(y, net.norm2)), net.expand.weight), net.norm3)
    if se and operation == "conv":
        gate = F.silu(F.conv2d(y.mean((2, 3), keepdim=True), net.se.reduce.weight, net.se.reduce.bias))
        y = y * F.conv2d(gate, net.se.expand.weight, net.se.expand.bias).sigmoid()
    shortcut = x
    if stride == 2:
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    if width != out or stride == 2:
        shortcut = norm(F.conv2d(shortcut, entry.shortcut.conv.weight), entry.shortcut.bn)
    return act(y + shortcut)


@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("operation", ["conv", "attention"])
@pytest.mark.parametrize("width, stride, side", [(64, 1, 6), (32, 2, 6), (32, 2, 7)])
def test_formula(operation, width, stride, side, se):
    torch.manual_seed(0)
    net = Bottleneck(operation, ((64, 1), (32, 2)), 64, 8, se, "silu" if se else "relu")
    net = randomised(net).double()
    x = torch.randn(2, width, side, side, dtype=torch.float64)
    expected = reference(x, net, operation, stride, width, 64, se, F.silu if se else F.relu)
    torch.testing.assert_close(net(x), expected)
    taken = net.extract((width, side, side))
    assert torch.equal(taken(x), net(x)) and list(taken.entries) == [str(width)]
    assert all(a is not b for a in taken.parameters() for b in net.parameters())


def test_the_position_encoding_is_shared_between_strides():
    # BossNAS, section 4.1: down-sampling in the position encoding lets candidates of both rates share weights.
    net = Bottleneck("conv", ((64, 1), (32, 2)), 64)
    by_name = dict(net.named_parameters(remove_duplicate=False))
    assert by_name["entries.32.position.weight"] is by_name["entries.64.position.weight"]
    assert sum(p.numel() for p in net.parameters()) == (
        64 * 16 + 2 * 16 + 32 * 16 + 2 * 16 + 32 * 64 + 2 * 64  # projections and norms; the shortcut of the wider step
        + 9 * 16 + 16 + 9 * 16 * 16 + 2 * 16 + 16 * 64 + 2 * 64
    )  # fmt: skip


def test_a_stand_in_costs_what_a_bottlenecks_convolution_does():
    layer = stand_in(64, 256, 1, 4, "relu")
    assert layer.conv.weight.numel() == 9 * 64 * 64
    assert layer(torch.randn(1, 64, 4, 4)).shape == (1, 256, 4, 4)


def test_bad_input():
    net = Bottleneck("conv", ((64, 1), (32, 2)), 64)
    with pytest.raises(InputError, match="input of 64 or 32 channels, got 16"):
        net(torch.randn(1, 16, 4, 4))
    with pytest.raises(InputError, match="conv or attention, got 'mlp'"):
        Bottleneck("mlp", ((64, 1),), 64)
    with pytest.raises(InputError, match="heads of 64, got 8"):
        Bottleneck("attention", ((32, 1),), 32)
