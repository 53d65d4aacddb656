"""Slimmable layers against slices of their weights, written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn import AtWidth, SlimmableConv2d, SlimmableLinear, Switchable, prefix


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_convolution_of_a_prefix(kernel, stride):
    layer = SlimmableConv2d(6, 8, kernel, stride)
    for inputs, width in ((6, 8), (2, 8), (6, 3), (1, 1)):
        x = torch.randn(2, inputs, 7, 7, dtype=torch.float64)
        layer.double()
        patches = F.unfold(x, kernel, padding=kernel // 2, stride=stride)
        expected = layer.weight[:width, :inputs].flatten(1) @ patches
        y = layer(x, width)
        torch.testing.assert_close(y.flatten(2), expected)
        plain = layer.extract(inputs, width)
        assert type(plain) is nn.Conv2d and torch.equal(plain(x), y)
        assert plain.weight.shape == (width, inputs, kernel, kernel) and plain.weight.is_contiguous()
    assert layer(torch.randn(1, 6, 7, 7).double()).shape[1] == 8


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_widths_together_are_those_alone(layout):
    layer = SlimmableConv2d(6, 8, 3).double()
    x = torch.randn(2, 4, 5, 5).double().contiguous(memory_format=layout)
    widths = [3, 8, 1]
    for width, y in zip(widths, layer.forward_widths(x, widths)):
        torch.testing.assert_close(y, layer(x, width))
        assert y.is_contiguous(memory_format=layout)
    assert layer.forward_widths(x, [3])[0].shape[1] == 3


def test_gradients_reach_only_the_slice():
    layer = SlimmableConv2d(4, 4, 1)
    layer(torch.randn(1, 2, 3, 3), 3).sum().backward()
    assert (layer.weight.grad[:3, :2] != 0).all()
    assert not layer.weight.grad[3:].any() and not layer.weight.grad[:, 2:].any()


def test_linear_of_a_prefix():
    layer = SlimmableLinear(7, 5).double()
    x = torch.randn(2, 3, 7).double()
    for k in (1, 4, 7):
        expected = torch.einsum("bnk,ok->bno", x[..., :k], layer.weight[:, :k]) + layer.bias
        torch.testing.assert_close(layer(x[..., :k]), expected)
        torch.testing.assert_close(layer(x[..., :k], 2), expected[..., :2])
        plain = layer.extract(k, 2)
        assert type(plain) is nn.Linear
        torch.testing.assert_close(plain(x[..., :k]), expected[..., :2])


def test_a_switchable_norm_has_its_own_statistics_per_width():
    norm = Switchable((2, 4), nn.BatchNorm2d)
    x = torch.randn(3, 4, 2, 2) * 3 + 1
    for width in (2, 4):
        part = x[:, :width]
        y = norm(part)
        expected = (part - part.mean((0, 2, 3), keepdim=True)) / (
            part.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        torch.testing.assert_close(y, expected)
    assert not torch.equal(norm.at(2).running_mean, torch.zeros(2))
    copied = norm.extract((2, 5, 5))
    assert copied is not norm.at(2) and torch.equal(copied.running_mean, norm.at(2).running_mean)
    with pytest.raises(InputError, match="expected an input of 2, 4 channels, got 3"):
        norm(x[:, :3])


def test_candidates_share_the_layer():
    layer = SlimmableConv2d(3, 4, 1)
    candidates = nn.ModuleList(AtWidth(layer, width) for width in (2, 4))
    assert sum(p.numel() for p in candidates.parameters()) == 12
    x = torch.randn(2, 3, 4, 4)
    for candidate, y in zip(candidates, AtWidth.run_together(list(candidates), x)):
        torch.testing.assert_close(candidate(x), y)
        torch.testing.assert_close(candidate.extract((3, 4, 4))(x), y)


@pytest.mark.parametrize("training", [True, False])
def test_copies_are_free_of_the_shared_layer(training):
    layer = SlimmableConv2d(3, 4, 1)
    layer.weight.requires_grad_(training)
    with torch.no_grad():
        plain = layer.extract(2, 2)
        plain.weight.zero_()
    assert plain.weight.requires_grad == training and layer.weight.all()


def test_prefix_keeps_the_layout():
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 3, 3).contiguous(memory_format=layout)
        assert prefix(x, 4) is x
        assert torch.equal(prefix(x, 3), x[:, :3]) and prefix(x, 3).is_contiguous(memory_format=layout)
    assert prefix(torch.randn(2, 4), 3).is_contiguous()
