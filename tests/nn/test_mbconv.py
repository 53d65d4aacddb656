"""MBConv against timm's inverted residual, on the same weights."""

from functools import partial

import pytest
import torch
from timm.layers import SqueezeExcite
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from pynas.nn import MBConv


@pytest.mark.parametrize(
    "inputs, outputs, kernel, expand, stride", [(8, 8, 3, 6, 1), (8, 12, 5, 3, 2), (8, 16, 7, 6, 1)]
)
def test_equals_timm(inputs, outputs, kernel, expand, stride):
    torch.manual_seed(0)
    ours = MBConv(inputs, outputs, kernel, expand, stride).train()
    squeeze = partial(SqueezeExcite, rd_channels=inputs // 4, act_layer=nn.SiLU)
    theirs = InvertedResidual(
        inputs, outputs, kernel, stride, exp_ratio=expand, se_layer=squeeze, act_layer=nn.SiLU
    ).train()  # fmt: skip
    assert [p.numel() for p in ours.parameters()] == [p.numel() for p in theirs.parameters()]
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            other.copy_(mine.reshape(other.shape))
    images = torch.randn(4, inputs, 9, 9)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
