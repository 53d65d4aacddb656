"""Feature maps of a network of every space, against its layers run one by one."""

from collections import OrderedDict

import pytest
import torch
from timm.models import FeatureListNet
from torch import nn

from pynas import export
from pynas.errors import InputError
from pynas.spaces import SPACES, get
from tests.enumeration import smallest

# Reductions of the smallest architecture's maps. HyTra's first one skips scales; a vision transformer has one resolution.
REDUCTIONS = {
    "mbconv-dna": [2, 4, 8, 16, 32], "mbconv-boss": [2, 4, 8, 16, 32], "mbconv-mini": [1, 2, 4, 8],
    "mbconv-dna-single": [2, 4, 8, 16, 32], "mbconv-dna-a": [2, 4, 8, 16, 32], "mbconv-dna-b": [2, 4, 8, 16, 32],
    "mbconv-dna-d": [2, 4, 8, 16, 32], "mbconv-boss-no-se": [2, 4, 8, 16, 32],
    "hytra": [2, 4, 32], "hytra-se": [2, 4, 32], "hytra-s1": [2, 4, 16], "hytra-se-s1": [2, 4, 16], "hytra-mini": [2, 16],
    "nats-size": [1, 2, 4], "nats-size-cifar100": [1, 2, 4],
    "autoformer-tiny": [16], "autoformer-small": [16], "autoformer-base": [16], "autoformer-mini": [4],
    "bignas-cnn": [2, 4, 8, 16, 32], "bignas-mini": [2, 4, 8],
    "nasbench201": [1, 2, 4], "nasbench201-3": [1, 2, 4], "nasbench201-mini": [1, 2, 4],
    "splitattention": [2, 4, 8, 16, 32], "splitattention-unshared": [2, 4, 8, 16, 32], "splitattention-mini": [1, 2, 4, 8],
    "vit-dna": [8, 16, 32], "vit-mini": [2, 4, 8],
}  # fmt: skip


@torch.no_grad()
def naive(model, images):
    """Last output of every side, of all layers but those that resize and the head; tokens without the first as maps."""
    maps, x = OrderedDict(), images
    for name, child in model.named_children():
        if name == "head":
            break
        for part in child if isinstance(child, nn.Sequential) else [child]:
            x = part(x) if name != "resize" else x
            if x.ndim == 3:
                side = round((x.shape[1] - 1) ** 0.5)
                maps[side] = x[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)
            elif name != "resize":
                maps[x.shape[2]] = x.clone()
    return list(maps.values())


def test_every_space_is_tested():
    assert set(REDUCTIONS) == set(SPACES)


@pytest.mark.parametrize(
    "name", [name if "mini" in name else pytest.param(name, marks=pytest.mark.slow) for name in REDUCTIONS]
)
def test_maps_of_every_space(name):
    torch.manual_seed(0)
    space = get(name)
    side = space.image_size
    model = export.standalone(space, smallest(space), 4).eval()
    net, images = export.features(model, (3, side, side)), torch.randn(1, 3, side, side)
    expected = naive(model, images)
    assert net.feature_info.reduction() == REDUCTIONS[name] == [side // x.shape[2] for x in expected]
    assert net.feature_info.channels() == [x.shape[1] for x in expected]
    with torch.no_grad():
        got = net(images)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert all(x.shape[2] * r == x.shape[3] * r == side for x, r in zip(got, REDUCTIONS[name], strict=True))


@pytest.mark.parametrize("side", [48, 64])
@pytest.mark.parametrize("name", [name for name in REDUCTIONS if name.endswith("mini")])
def test_maps_of_larger_images(name, side):
    model = export.standalone(get(name), smallest(get(name)), 4).eval()
    maps = export.features(model, (3, get(name).image_size, get(name).image_size))(torch.randn(1, 3, side, side))
    assert [x.shape[2] for x in maps] == [x.shape[3] for x in maps] == [side // r for r in REDUCTIONS[name]]


@pytest.mark.parametrize("side", [25, 33, 36, 63])
def test_reductions_are_products_of_strides_at_odd_sizes(side):
    """Whatever the rounding of odd sides: a side of 33 becomes 17, 9, 5, of 25 13, 7, 4."""
    model = export.standalone(get("mbconv-mini"), "0|00|00|00", 4)
    assert [entry["reduction"] for entry in export.feature_info(model, (3, side, side))] == [1, 2, 4, 8]


def test_layers_of_a_vision_transformer_by_number():
    """`out_indices` count its layers, as timm's for ViTs; every one has the patch's reduction."""
    torch.manual_seed(0)
    space = get("autoformer-mini")
    model = export.standalone(space, smallest(space), 4).eval()
    depth, images = len(model.block_1), torch.randn(2, 3, 32, 32)
    info = export.feature_info(model, (3, 32, 32))
    assert [entry["module"] for entry in info] == [f"block_1.{n}" for n in range(depth)]
    net = export.features(model, (3, 32, 32), out_indices=(0, -1))
    assert net.feature_info.reduction() == [4, 4]
    x = model.block_1[0](model.stem(images))
    for got, tokens in zip(net(images), (x, model.block_1(model.stem(images))), strict=True):
        # Row by row after the class token.
        for place in (0, 7, 8, 63):
            assert torch.equal(got[:, :, place // 8, place % 8], tokens[:, 1 + place])


def test_maps_come_in_the_order_of_their_descriptions():
    model = export.standalone(get("mbconv-mini"), "0|00|00|00", 4)
    net = export.features(model, (3, 32, 32), out_indices=(2, 0, -2))
    assert net.feature_info.channels() == [x.shape[1] for x in net(torch.randn(1, 3, 32, 32))] == [16, 64]
    enlarging = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2))
    with pytest.raises(InputError, match="do not grow from layer to layer, got the sides 16 and 32"):
        export.features(enlarging, (3, 32, 32))


def test_of_what_has_none():
    with pytest.raises(InputError, match="Sequential"):
        export.features(nn.Conv2d(3, 4, 3), (3, 32, 32))
    with pytest.raises(InputError, match="maps"):
        export.features(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
    model = export.standalone(get("mbconv-mini"), "0|00|00|00", 4)
    for indices in ((4,), (-5, 0), ()):
        with pytest.raises(InputError, match="indices from 0 to 3, got"):
            export.features(model, (3, 32, 32), out_indices=indices)


def test_is_timms_list_of_maps():
    model = export.standalone(get("mbconv-mini"), "0|00|00|00", 4).train()
    net = export.features(model, (3, 32, 32))
    assert isinstance(net, FeatureListNet) and net.training and not export.features(model.eval(), (3, 32, 32)).training
