"""Usual layers are proven to keep samples apart, so that they run on stacked paths; own spaces too."""

import numpy as np
import pytest
import torch
from timm.layers import EcaModule, EvoNorm2dS0, GlobalContext
from timm.models.convnext import ConvNeXtBlock
from timm.models.mlp_mixer import MixerBlock
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import nn

from pynas.errors import InputError
from pynas.rating import rate
from pynas.spaces import Architecture
from pynas.supernets import supernet

from .models import NAIVE_LOSSES, alone


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 16, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Spectral(nn.Module):
    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * 1.5, s=x.shape[-2:])


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 16, 16))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x[:, 1:]], dim=1) + self.position


TOKENS, IMAGES, LAST = (3, 16, 16), (3, 16, 8, 8), (3, 8, 8, 16)
USUAL = {
    "vit": (lambda: Block(16, 4), TOKENS),
    "swin": (lambda: SwinTransformerBlock(16, (8, 8), 4, window_size=4, shift_size=2), LAST),
    "mixer": (lambda: MixerBlock(16, 16), TOKENS),
    "class token": (ClassToken, TOKENS),
    "gru": (Recurrent, TOKENS),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, batch_first=True), TOKENS),
    "convnext": (lambda: ConvNeXtBlock(16), IMAGES),
    "resnet": (lambda: Bottleneck(16, 4), IMAGES),
    "split attention": (lambda: ResNestBottleneck(16, 4, radix=2), IMAGES),
    "channel attention": (lambda: nn.Sequential(EcaModule(16), GlobalContext(16)), IMAGES),
    "other norms": (lambda: nn.Sequential(EvoNorm2dS0(16, groups=4), nn.InstanceNorm2d(16, affine=True),
                                          nn.LocalResponseNorm(3), nn.GroupNorm(4, 16)), IMAGES),
    "shuffles": (lambda: nn.Sequential(nn.ChannelShuffle(4), nn.PixelShuffle(2), nn.PixelUnshuffle(2)), IMAGES),
    "resizing": (lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.MaxPool2d(3, 2, 1),
                                       nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)), IMAGES),
    "frequencies": (Spectral, IMAGES),
    "in place": (lambda: nn.Sequential(nn.Hardswish(inplace=True), nn.Mish(inplace=True), nn.Threshold(0.1, 0.1, inplace=True),
                                       nn.ReLU6(inplace=True), nn.Hardswish()), IMAGES),
}  # fmt: skip


@pytest.mark.parametrize("kind", USUAL)
def test_usual_layers_run_stacked(kind):
    """A warning that paths run one at a time would fail this test."""
    make, shape = USUAL[kind]
    torch.manual_seed(0)
    layers, sizes = [[nn.Identity(), nn.Tanh(), nn.Sigmoid()], [make(), make()]], []
    layers[1][1].register_forward_hook(lambda m, args, y: sizes.append(len(y)))
    batches = [(torch.randn(shape), torch.randn(shape))]
    scores = rate(layers, batches, "mse", "batch", stack="memory", workers=1).scores
    np.testing.assert_allclose(scores, alone(layers, batches, NAIVE_LOSSES["mse"], "batch"), rtol=1e-4)
    assert max(sizes, default=9) == 9  # none where a fused form runs


def others(space, architecture, block, rng):
    """Some more paths of the block's cell that go with the architecture's other blocks."""
    for _ in range(12):
        choice = space.sample(rng)[block]
        try:
            space.check(Architecture((*architecture[:block], choice, *architecture[block + 1 :])))
        except InputError:
            continue
        if choice.cell == architecture[block].cell:
            yield choice.path


@pytest.mark.parametrize(
    "space", ["mbconv-mini", "hytra-mini", "autoformer-mini", "bignas-mini", "splitattention-mini", "vit-mini"]
)
def test_own_spaces_run_stacked(space):
    net, rng = supernet(space).train(), np.random.default_rng(0)
    side = net.space.image_size
    architecture = net.space.sample(rng)
    with torch.no_grad():
        x = net.enter(torch.randn(2, 3, side, side), architecture[0])
        for block, choice in enumerate(architecture):
            table = rate(
                net.layers(block, choice.cell), [(x, x)], lambda y, t: y.square().mean(), "batch", stack="memory",
                paths=[choice.path, *others(net.space, architecture, block, rng)],
            )  # fmt: skip
            for module in net.path(block, choice):
                x = module(x)
            assert table[choice.path] == pytest.approx(float(x.square().mean()), rel=1e-3)
