"""Vision transformers at another image size: their positions are resampled, and everything else stays."""

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch.nn import functional as F

from pynas import export, supernet
from pynas.errors import InputError
from pynas.spaces import get

NETS = ("autoformer-mini", "vit-mini")


def made(name, classes=5):
    """A network with positions that are not small, and its space and architecture."""
    torch.manual_seed(0)
    space = get(name)
    architecture = space.sample(np.random.default_rng(0))
    model = export.standalone(space, architecture, classes).eval()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if n.endswith("position")):
            parameter.normal_()
    return model, space, architecture


def saved(name, tmp_path, **metadata):
    model, space, architecture = made(name)
    path = tmp_path / "subnet.safetensors"
    export.save_subnet(path, model, space, architecture, 5, **metadata)
    return path, model


def resized(position, side, prefix):
    """Positions `[N, D]` at another side: a bicubic, antialiased image of each channel."""
    first, grid = position[:prefix], position[prefix:]
    old = round(len(grid) ** 0.5)
    image = grid.T.reshape(1, -1, old, old)
    image = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, image[0].flatten(1).T])


@pytest.mark.parametrize("side", [16, 32, 40, 64])
def test_a_patch_embedding_of_another_size(side, tmp_path):
    path, model = saved("autoformer-mini", tmp_path, image_shape=[3, 32, 32])
    loaded, metadata = export.load_subnet(path, image_size=side)
    assert metadata["image_shape"] == [3, side, side]
    images, stem = torch.randn(2, 3, side, side), model.stem
    with torch.no_grad():
        patches = stem.conv(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([stem.class_token.expand(2, -1, -1), patches], 1)
        position = resized(stem.position[0], side // 4, 1)
        timms = resample_abs_pos_embed(stem.position, [side // 4, side // 4], num_prefix_tokens=1)[0]
        torch.testing.assert_close(position if side != 32 else stem.position[0], timms, rtol=1e-5, atol=1e-6)
        expected = model.head(model.block_1(tokens + timms))
        torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-5)
        if side != 32:
            with pytest.raises(InputError, match=rf"expected images of 32x32, got \[{side}, {side}\].*image_size="):
                model(images)
        follows = export.from_pretrained(path, dynamic_image_size=True)
        torch.testing.assert_close(follows(images), expected, rtol=1e-4, atol=1e-5)
        unchanged = torch.randn(2, 3, 32, 32)
        assert torch.equal(follows(unchanged), model(unchanged))


@pytest.mark.parametrize("side", [16, 32, 64])
def test_every_block_of_a_vit_of_another_size(side, tmp_path):
    path, model = saved("vit-mini", tmp_path)
    loaded = export.from_pretrained(path, image_size=side)
    images = x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        for block in (model.block_1, model.block_2, model.block_3, model.block_4):
            entry, *layers, exit_ = block[0]
            tokens, old = entry.merge(x), round(len(entry.position) ** 0.5)
            assert tokens.shape[2] == old * side // 32
            position = resized(entry.position, tokens.shape[2], 0) if side != 32 else entry.position
            tokens = tokens.flatten(2).mT + position
            for layer in layers:
                tokens = layer(tokens)
            x = exit_(tokens)
        torch.testing.assert_close(loaded(images), model.head(x), rtol=1e-4, atol=1e-5)
        follows = export.from_pretrained(path, dynamic_image_size=True)
        torch.testing.assert_close(follows(images), model.head(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_a_file_of_another_size_comes_back(name, tmp_path):
    path, _ = saved(name, tmp_path)
    larger, metadata = export.load_subnet(path, image_size=48)
    again = tmp_path / "again.safetensors"
    export.save_subnet(again, larger, get(name), metadata["architecture"], 5, image_shape=metadata["image_shape"])
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(export.from_pretrained(again)(images), larger(images))
    assert export.load_subnet(again)[1]["image_shape"] == [3, 48, 48]
    fresh = export.standalone(get(name), metadata["architecture"], 5, (3, 48, 48))
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in larger.named_parameters()}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("autoformer-mini", "mbconv-mini", "bignas-mini")]


@pytest.mark.parametrize("name", ["vit-mini", *SLOW])
def test_files_for_another_image_size(name, tmp_path):
    path, _ = saved(name, tmp_path)
    model, metadata = export.load_subnet(path, image_size=48)
    export.write_torch_export(tmp_path / "net.pt2", model, metadata["image_shape"])
    images = torch.randn(3, 3, 48, 48)
    got = torch.export.load(tmp_path / "net.pt2").module()(images)
    torch.testing.assert_close(got, model(images), rtol=1e-4, atol=1e-5)


def test_sizes_that_patches_do_not_divide(tmp_path):
    path, _ = saved("autoformer-mini", tmp_path)
    with pytest.raises(InputError, match=r"image size that is a multiple of 4, got 30"):
        export.load_subnet(path, image_size=30)
    with pytest.raises(InputError, match="at least 1 pixel, got 0"):
        export.load_subnet(path, image_size=0)
    follows = export.from_pretrained(path, dynamic_image_size=True)
    for shape in ((30, 30), (32, 48)):
        with pytest.raises(InputError, match=r"square images whose side is a multiple of 4"):
            follows(torch.zeros(1, 3, *shape))
    path, _ = saved("vit-mini", tmp_path)
    with pytest.raises(InputError, match="multiple of"):
        export.load_subnet(path, image_size=36)
    follows = export.from_pretrained(path, dynamic_image_size=True)
    with pytest.raises(InputError, match="multiple of"):
        follows(torch.zeros(1, 3, 36, 36))


@pytest.mark.parametrize("name", NETS)
def test_supernets_say_which_images_they_take(name):
    net = supernet(name, 4).eval()
    with pytest.raises(InputError, match=r"expected images of 32x32, got \[40, 40\]"):
        net(torch.zeros(1, 3, 40, 40), net.space.sample(np.random.default_rng(0)))
