"""BossNAS's heads: maps of several scales become as small as the smallest before their channels are mixed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.costs import count_module
from pynas.methods.bossnas.block_tree import block_widths
from pynas.methods.bossnas.heads import Fix, PathHead, mlp

HYTRA = {256: 8, 512: 4, 1024: 2, 2048: 1}


def test_strides_of_the_blocks_of_hytra():
    with torch.device("meta"):
        net = pynas.supernet("hytra")
    assert block_widths(net, (3, 224, 224))[0] == HYTRA
    with torch.device("meta"):
        other = pynas.supernet("hytra-s1")
    # Without a stride into the last scale, 1/16 is the smallest.
    assert block_widths(other, (3, 224, 224))[0] == {256: 4, 512: 2, 1024: 1, 2048: 1}


@pytest.mark.parametrize("width", HYTRA)
def test_a_map_is_made_small_before_its_channels_are_mixed(width):
    """Depth-wise strided convolution, 1x1 convolution, batch norm: the 1x1 convolution runs on 7x7 positions, not 56x56."""
    with torch.device("meta"):
        fix, stride = Fix(HYTRA, 2048), HYTRA[width]
    side = 7 * stride
    costs, shape = count_module(fix, (width, side, side))
    shrinking = width * (2 * stride - 1) ** 2 * 49 if stride > 1 else 0
    assert shape == (2048, 7, 7) and costs["madds"] == shrinking + width * 2048 * 49
    kinds = [type(part) for part in fix.by_width[str(width)]]
    assert kinds == ([nn.Conv2d] if stride > 1 else []) + [nn.Conv2d, nn.BatchNorm2d]
    # A layer of the space at 1/4 has 0.22 G; at full resolution the 1x1 convolution alone had 1.64 G.
    assert costs["madds"] < 0.22e9 < 1.6e9 < 256 * 2048 * 56 * 56


@pytest.mark.parametrize("side", [4, 7, 8, 13])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_position_counts(stride, side):
    """The output has the side that halving again and again gives, and no position of the input is skipped."""
    fix = Fix({2: stride, 5: 1}, 5).eval()
    halved = side
    for _ in range(stride.bit_length() - 1):
        halved = -(-halved // 2)
    x = torch.randn(1, 2, side, side, requires_grad=True)
    with torch.no_grad():
        for weight in fix.parameters():
            weight.abs_().add_(0.1)
    y = fix(x)
    assert y.shape == (1, 5, halved, halved)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient > 0).all()
    shrink, conv, bn = fix.by_width["2"]
    small = F.conv2d(x, shrink.weight, None, stride, stride - 1, groups=2)
    torch.testing.assert_close(y, bn(torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], small)))


def test_widths_of_one_scale_have_no_stride():
    net = pynas.supernet("nats-size", 10)
    widths = block_widths(net, (3, 32, 32))
    assert widths == [dict.fromkeys(range(8, 65, 8), 1)] * 3
    fix = Fix(widths[0], 64)
    assert all([type(part) for part in fix.by_width[str(w)]] == [nn.Conv2d, nn.BatchNorm2d] for w in widths[0])
    x = torch.randn(2, 6, 3, 3)
    assert Fix({6: 1}, 6)(x) is x


@pytest.mark.parametrize("training", [True, False])
def test_vectors_of_paths_together_are_those_of_each(training):
    """One pass of the linear layers for all paths: same vectors, gradients and running averages, in float64."""
    torch.manual_seed(0)
    parts = {"projector": mlp(6, 32, 5), "predictor": mlp(5, 32, 5), "linear": nn.Linear(5, 3)}
    heads = [PathHead({4: 2, 6: 1}, 6, **parts).double().train(training)]
    heads.append(copy.deepcopy(heads[0]))
    shapes = [(7, 4, 8, 8), (7, 6, 4, 4), (7, 4, 8, 8)]
    drawn = [torch.randn(shape, dtype=torch.float64) * (i + 1) for i, shape in enumerate(shapes)]
    found = []
    for head, run in zip(heads, (PathHead.together, lambda head, paths: torch.stack([head(path) for path in paths]))):
        paths = [path.clone().requires_grad_() for path in drawn]
        vectors = run(head, paths)
        vectors.square().sum().backward()
        found.append([vectors, *(path.grad for path in paths), *(p.grad for p in head.parameters())])
    assert found[0][0].shape == (3, 7, 3)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(heads[0].state_dict(), heads[1].state_dict())
