"""The batched augmentation against torchvision's, image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from pynas.data import opencv, strong
from pynas.data.loaders import seeded


@pytest.fixture
def images():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 3, 5, 5), (12, 16), mode="bicubic").clamp(0, 1)
    return torch.cat([smooth, torch.rand(4, 3, 12, 16), torch.full((1, 3, 12, 16), 0.3)])


def test_crops_are_torchvisions(images):
    crops = strong.draw_crops(len(images), 12, 16, (0.2, 1.0))
    found = strong.resized_crops(images, *crops)
    for image, result, top, left, height, width in zip(images, found, *map(torch.Tensor.tolist, crops)):
        expected = tv.resized_crop(image, top, left, height, width, [12, 16], antialias=True)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_crops_are_drawn_as_torchvision_draws_them():
    """Area and ratio within their ranges; the same mean area and the same share of left edges."""
    torch.manual_seed(1)
    top, left, height, width = strong.draw_crops(4000, 32, 24, (0.2, 1.0))
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 32).all() and (left + width <= 24).all()
    drawn = [v2.RandomResizedCrop.make_params(crop, [torch.empty(3, 32, 24)]) for crop in
             [v2.RandomResizedCrop(32, scale=(0.2, 1.0))] for _ in range(4000)]  # fmt: skip
    for mine, name in ((top, "top"), (left, "left"), (height, "height"), (width, "width")):
        theirs = np.array([params[name] for params in drawn])
        assert mine.double().mean() == pytest.approx(theirs.mean(), abs=4 * theirs.std() / 4000**0.5 * 2**0.5)


def test_hue_is_torchvisions(images):
    turns = torch.linspace(-0.5, 0.5, len(images))
    found = strong.turn_hue(images, turns[:, None, None, None])
    for image, turn, result in zip(images, turns.tolist(), found):
        torch.testing.assert_close(result, tv.adjust_hue(image, turn), atol=1e-4, rtol=0)


def test_blur_is_torchvisions(images):
    sigma = torch.linspace(0.1, 2, len(images))
    found = strong.blur(images, sigma, 5)
    for image, deviation, result in zip(images, sigma.tolist(), found):
        torch.testing.assert_close(result, tv.gaussian_blur(image, [5, 5], [deviation, deviation]), atol=1e-5, rtol=0)


def naive_jitter(image, factors, order):
    apply = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for change in order:
        image = apply[change](image, factors[change])
    return image


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ranges", [strong.BYOL.jitter, strong.MOCO.jitter, (0.3, 0.3, 0.3, 0.0)])
def test_jitter_is_torchvisions(images, seed, ranges):
    torch.manual_seed(seed)
    drawn = strong.Changes(ranges).read(strong.draw(len(images)))
    assert len({tuple(order) for order in drawn.order.tolist()}) > 4  # each image has an order of its own
    found = strong.jitter(images, drawn.factors, drawn.order)
    for image, factors, order, result in zip(images, drawn.factors.tolist(), drawn.order.tolist(), found):
        torch.testing.assert_close(result, naive_jitter(image, factors, order), atol=1e-4, rtol=0)


def test_numbers_are_read_as_torchvision_draws():
    torch.manual_seed(0)
    drawn = strong.BYOL.read(strong.draw(40_000))
    shares = drawn.flags.mean(0).tolist()
    assert shares == pytest.approx([0.8, 0.2, 0.55, 0.1], abs=0.01)
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = drawn.factors[:, column].astype(float)
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01)
        assert values.std() == pytest.approx((high - low) / 12**0.5, rel=0.02)
    assert drawn.sigma.min() >= 0.1 and drawn.sigma.max() <= 2 and drawn.sigma.mean() == pytest.approx(1.05, abs=0.01)
    assert (np.sort(drawn.order, 1) == np.arange(4)).all()
    assert np.bincount(drawn.order[:, 0]) / 40_000 == pytest.approx(0.25, abs=0.01)


@pytest.fixture
def picture():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9), (96, 80), mode="bicubic").clamp(0, 1)[0]
    return (smooth * 255).round().byte()


@pytest.mark.parametrize("change", range(4))
@pytest.mark.parametrize("factor", [0.6, 0.95, 1.3, 0.0])
def test_opencv_changes_colours_as_torchvision(picture, change, factor):
    apply = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)[change]
    value = (factor - 1) / 4 if change == 3 else factor
    found = opencv.JITTERS[change](np.ascontiguousarray(picture.permute(1, 2, 0)), value)
    expected = apply(picture.double() / 255, value) * 255
    assert (
        torch.from_numpy(found).permute(2, 0, 1) - expected
    ).abs().max() <= 0.5 + 3 * 255 * 2**-11  # of 10-bit fractions


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0])
def test_opencv_blurs_as_torchvision(picture, sigma):
    found = opencv.blurred(np.ascontiguousarray(picture.permute(1, 2, 0)), sigma, 9)
    expected = tv.gaussian_blur(picture.double(), [9, 9], [sigma, sigma])
    assert (torch.from_numpy(found).permute(2, 0, 1) - expected).abs().max() <= 0.5 + 0.2


@pytest.mark.parametrize("changes", [strong.BYOL, strong.MOCO, strong.Changes.of_colours(0.4)])
def test_an_image_and_a_batch_change_alike(picture, changes):
    """OpenCV rounds after every change: a few levels, but for pixels on which solarising or a grey's hue turns."""
    for seed in range(40):
        with seeded(seed):
            alone = changes.of_image(picture)
        with seeded(seed):
            together = changes(picture[None])[0]
        assert alone.dtype == torch.uint8 and alone.shape == picture.shape
        off = (alone.int() - together.int()).abs()
        assert off.double().mean() < 1 and (off > 6).double().mean() < 0.01


def test_shares_and_types():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2000, 3, 4, 4), dtype=torch.uint8)
    found = strong.Strong(strong.BYOL, (1.0, 1.0), flip=False)(images)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    grey = (found.amax(1) - found.amin(1) <= 1).flatten(1).all(1).double().mean()
    assert grey == pytest.approx(strong.BYOL.grey, abs=0.04)
    torch.manual_seed(3)
    first = strong.Strong(strong.BYOL, (0.2, 1.0))(images)
    torch.manual_seed(3)
    assert torch.equal(first, strong.Strong(strong.BYOL, (0.2, 1.0))(images))


def test_images_of_one_value_stay_finite():
    for value in (0, 255):
        found = strong.Strong(strong.BYOL, (0.2, 1.0))(torch.full((64, 3, 8, 8), value, dtype=torch.uint8))
        assert found.shape == (64, 3, 8, 8)


def test_moco_does_not_solarise_and_crops_as_byol():
    torch.manual_seed(0)
    bright = torch.full((500, 3, 4, 4), 255, dtype=torch.uint8)
    by = {
        name: strong.Strong(changes, (0.2, 1.0))(bright)
        for name, changes in (("byol", strong.BYOL), ("moco", strong.MOCO))
    }
    dark = {name: (images.flatten(1).amax(1) < 127).double().mean().item() for name, images in by.items()}
    assert dark["byol"] == pytest.approx(strong.BYOL.solarized, abs=0.04) and dark["moco"] == 0
