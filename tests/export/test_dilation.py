"""Output strides: the old maps are sub-grids of the dilated ones, exactly, for every kind of space with convolutions."""

from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from pynas import export
from pynas.errors import InputError
from pynas.export.dilation import AtrousAvgPool2d, AtrousMaxPool2d
from pynas.spaces import SPACES, get
from pynas.spaces.splitattention import DeepStemSpec, splitattention
from tests.enumeration import smallest

POOLED = splitattention("pooled", (1, 2, 1, 1), (32, 32, 64, 64), DeepStemSpec(4, 2, pool=True), image_size=64)
CELL = "|avg_pool_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_3x3~2|"
# Of every kind of space a network without self-attention, with kernels and pooling of several sizes, and the sides to try.
NETWORKS = {
    "mbconv": (get("mbconv-mini"), None, (32, 33, 45)),
    "splitattention": (get("splitattention-mini"), None, (32,)),
    "splitattention with max pooling": (POOLED, None, (64, 75)),
    "nasbench201": (get("nasbench201-mini"), CELL, (16, 20)),
    "nats-size": (get("nats-size"), ":".join(["8"] * 5), (16, 20)),
    "bignas": (get("bignas-mini"), None, (32, 41)),
    "hytra": (get("hytra-mini"), None, (32, 45)),
}


def with_values(space, architecture, seed=0):
    """Network in float64 with random statistics, and gates by global pooling that do not depend on the map."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    choice = architecture or space.sample(rng)
    while space.kind == "hytra" and "0" in str(space.format(choice)):  # self-attention
        choice = space.sample(rng)
    model = export.standalone(space, choice, 4).double().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low in (
                (part.running_mean, -1),
                (part.running_var, 1),
                (part.weight.data, 0.5),
                (part.bias.data, -1),
            ):
                values.uniform_(low, low + 1.5)
        if type(part).__name__ in ("SqueezeExcitation", "SplitAttn"):
            last = part.expand if hasattr(part, "expand") else part.fc2
            nn.init.zeros_(last.weight)
            nn.init.normal_(last.bias)
    return model


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_old_maps_are_sub_grids_of_the_dilated_ones(name):
    space, architecture, sides = NETWORKS[name]
    for seed in range(2):
        model = with_values(space, architecture, seed)
        shape = (3, space.image_size, space.image_size)
        plain, strides = export.features(model, shape), [str(part) for part in model.modules()]
        reductions, total = plain.feature_info.reduction(), max(plain.feature_info.reduction())
        for stride in [s for s in (1, 2, 4, 8, 16, 32) if s <= total]:
            dense = export.features(model, shape, output_stride=stride)
            assert dense.feature_info.reduction() == [min(r, stride) for r in reductions]
            assert dense.feature_info.channels() == plain.feature_info.channels()
            for side in sides:
                images = torch.randn(1, 3, side, side, dtype=torch.float64)
                old, new = plain(images), dense(images)
                assert [x.shape[2] for x in new] == [-(-side // min(r, stride)) for r in reductions]
                for x, y, r in zip(old, new, reductions, strict=True):
                    ratio = r // min(r, stride)
                    torch.testing.assert_close(y[:, :, ::ratio, ::ratio], x, rtol=1e-10, atol=1e-10)
        assert [str(part) for part in model.modules()] == strides


@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_against_timms_own(stride):
    """ResNet-18, whose blocks timm dilates by the same rule."""
    theirs = timm.create_model("resnet18", features_only=True, output_stride=stride).eval()
    body = timm.create_model("resnet18").eval()
    body.load_state_dict(theirs.state_dict(), strict=False)
    stem = nn.Sequential(body.conv1, body.bn1, body.act1)
    model = nn.Sequential(OrderedDict(stem=stem, pool=body.maxpool, block_1=body.layer1, block_2=body.layer2,
                                      block_3=body.layer3, block_4=body.layer4, head=nn.Flatten()))  # fmt: skip
    ours, images = export.features(model.eval(), (3, 64, 64), output_stride=stride), torch.randn(2, 3, 96, 96)
    assert (
        ours.feature_info.reduction()
        == theirs.feature_info.reduction()
        == [2, 4, *[min(r, stride) for r in (8, 16, 32)]]
    )
    for got, expected in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SPACES if name.endswith("mini")])
def test_reductions_of_every_small_space(name):
    """Whether it has self-attention or gates; those that cannot be dilated are refused by a line that tells why."""
    space = get(name)
    model = export.standalone(space, smallest(space), 4).train()
    shape = (3, space.image_size, space.image_size)
    if space.kind in ("vit", "autoformer"):
        with pytest.raises(InputError, match="of convolutions.*got .*vision transformer.*leave output_stride out"):
            export.features(model, shape, output_stride=2)
        return
    plain, dense = export.features(model, shape), export.features(model, shape, output_stride=2)
    assert dense.training and dense.feature_info.reduction() == [min(r, 2) for r in plain.feature_info.reduction()]
    maps = dense.eval()(torch.randn(2, *shape))
    assert [shape[1] // x.shape[2] for x in maps] == dense.feature_info.reduction()
    assert [x.shape[1] for x in maps] == dense.feature_info.channels()


def window(x, row, column, kernel, stride, padding, dilation):
    """Values of a window inside the map of one channel."""
    places = [(row * stride - padding + i * dilation, column * stride - padding + j * dilation)
              for i in range(kernel) for j in range(kernel)]  # fmt: skip
    return torch.stack([x[i, j] for i, j in places if 0 <= i < x.shape[0] and 0 <= j < x.shape[1]])


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, 0), (5, 2), (1, 0)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_against_windows_one_by_one(kernel, padding, dilation, stride):
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    sizes = kernel, stride, padding * dilation, dilation
    inside, zeros = (AtrousAvgPool2d(*sizes, counted)(x) for counted in (False, True))
    largest = AtrousMaxPool2d(*sizes)(x)
    assert inside.shape == zeros.shape == largest.shape == (2, 3, -(-7 // stride), -(-9 // stride))
    for b, c in ((0, 0), (1, 2)):
        for i in range(inside.shape[2]):
            for j in range(inside.shape[3]):
                values = window(x[b, c], i, j, *sizes)
                torch.testing.assert_close(inside[b, c, i, j], values.mean())
                torch.testing.assert_close(zeros[b, c, i, j], values.sum() / kernel**2)
                assert largest[b, c, i, j] == values.max()


class Strided(nn.Module):
    """A convolution behind a stride by slicing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x)[..., ::2, ::2]


class Own(nn.Module):
    """A convolution by torch's function."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x):
        return functional.conv2d(x, self.kernel, padding=1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.Conv2d(4, 4, 2, 2)], "'1' \\(Conv2d\\), which is not padded with zeros by half an odd kernel"),
        ([nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular")], "'1' \\(Conv2d\\), which is not padded with zeros"),
        (
            [nn.AvgPool2d(4, 2, 1)],
            "'1' \\(AvgPool2d\\), which is no plain square window with padding of nothing or half",
        ),
        ([nn.AvgPool2d(2, divisor_override=3)], "'1' \\(AvgPool2d\\), which is no plain square window"),
        ([nn.Conv2d(4, 4, 3)], "'1' \\(Conv2d\\), which takes maps of \\[8, 8\\] to \\[6, 6\\], no whole stride"),
        ([nn.Conv2d(4, 4, 3, (2, 1), 1)], "'1' \\(Conv2d\\), which takes maps of \\[16, 16\\] to \\[8, 16\\]"),
        ([nn.LPPool2d(2, 2)], "'1' \\(LPPool2d\\), which changes the size of its map"),
        ([Own()], "'1' \\(Own\\), which has kernels of its own"),
        (
            [nn.Sequential(nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (-1, 8))))],
            "'1.0.0' \\(Flatten\\), which works on tokens",
        ),
        ([Strided()], "strides in layers of the kinds Conv2d, MaxPool2d and AvgPool2d, got others in '1'"),
    ],
)
def test_layers_that_cannot_be_dilated_are_named(parts, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *parts)
    with pytest.raises(InputError, match=message) as raised:
        export.features(model, (3, 16, 16), output_stride=2)
    assert "\n" not in str(raised.value)


def test_one_layer_on_maps_of_two_sizes():
    shared = nn.Conv2d(4, 4, 3, 2, 1)
    with pytest.raises(InputError, match="which runs on maps of several sizes"):
        export.features(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(shared, shared)), (3, 16, 16), output_stride=2)


def test_what_needs_no_change_is_not_asked_of():
    """A layer before the output stride may be of any kind that keeps whole strides; a padding in words follows."""
    parts = [nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding="same"), nn.MaxPool2d(2)]
    model = nn.Sequential(*parts).double()
    plain, dense = export.features(model, (3, 16, 16)), export.features(model, (3, 16, 16), output_stride=2)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert dense.feature_info.reduction() == [2, 2, 2]
    torch.testing.assert_close(dense(images)[-1][..., ::4, ::4], plain(images)[-1], rtol=1e-10, atol=1e-10)


def test_strides_that_a_network_cannot_have():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1))
    for stride in (0, 3, 5, 16):
        with pytest.raises(
            InputError, match=f"output stride of 1, 2, 4, 8, those .* of stride 8 can have, got {stride}$"
        ):
            export.features(model, (3, 32, 32), output_stride=stride)
    assert export.features(model, (3, 32, 32), output_stride=2).feature_info.reduction() == [2, 2]


def test_of_a_file(tmp_path):
    for name in ("mbconv-mini", "autoformer-mini"):
        space = get(name)
        choice = smallest(space)
        export.save_subnet(tmp_path / name, export.standalone(space, choice, 4), space, choice, 4)
    net = export.from_pretrained(tmp_path / "mbconv-mini", features_only=True, output_stride=4)
    assert net.feature_info.reduction() == [1, 2, 4, 4] and not net.training
    with pytest.raises(InputError, match="expected features_only=True for an output stride, got 8 without it"):
        export.from_pretrained(tmp_path / "mbconv-mini", output_stride=8)
    for name, stride in (("mbconv-mini", 16), ("autoformer-mini", 8)):
        with pytest.raises(InputError, match=f"; the network is .* of {name}$"):
            export.from_pretrained(tmp_path / name, features_only=True, output_stride=stride)
