"""Policies, erasing and repeats against timm's own, image by image."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.distributed_sampler import RepeatAugSampler
from torchvision.transforms import v2

from pynas import data
from pynas.data import Arrays, CropFlip, augment
from pynas.data.loaders import seeded
from pynas.errors import InputError

# From Python 3.12 on, forking workers beside torch's threads is warned about; the workers here only index and crop.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
# Of PreNAS's table 9, and AugMix (Pi-NAS, table 2).
POLICIES = ["rand-m10-n3-mstd0.5-inc1", "rand-m9-n2-mstd0.5-inc1", "v0r-mstd0.5"]


@pytest.fixture(scope="module")
def colours() -> data.ImageData:
    """60 images in memory."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8, generator=rng)
    part = Arrays(images.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.arange(60))
    return data.ImageData("own", part, part, part, 60, (3, 16, 16), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), True, "0" * 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> data.ImageData:
    return data.load(make_folder(tmp_path_factory.mktemp("images")), 32, val_fraction=0.2)


def keep_posterizing(op: Any) -> None:
    """Make timm's posterize give black for 0 bits, where Pillow 13 raises an error."""
    if op.name.startswith("Posterize"):
        original = op.aug_fn
        op.aug_fn = lambda image, bits, **settings: (
            original(image, bits, **settings) if bits > 0 else image.point(lambda value: 0)
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_in_memory_is_timms_on_each_image(colours: data.ImageData, policy: str) -> None:
    settings = {
        "translate_const": int(16 * 0.45),
        "img_mean": (102, 128, 153),
        "interpolation": Image.Resampling.BICUBIC,
    }
    naive = (rand_augment_transform if policy.startswith("rand") else auto_augment_transform)(policy, settings)
    batch = colours.train.images[:24]
    for op in naive.ops if hasattr(naive, "ops") else itertools.chain(*naive.policy):
        keep_posterizing(op)
    with seeded(3):
        got = colours.transform(policy)(batch)
    with seeded(3):
        cropped = CropFlip(2, True)(batch)
        want = [np.asarray(naive(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in cropped]
    assert torch.equal(got, torch.from_numpy(np.stack(want)).permute(0, 3, 1, 2))
    assert len({tuple(row) for row in (got != cropped).flatten(1).tolist()}) > 6  # each image has its own draw


@pytest.mark.parametrize("policy", POLICIES)
def test_files_get_timms_whole_list(folder: data.ImageData, policy: str) -> None:
    naive = create_transform((32, 32), is_training=True, auto_augment=policy, color_jitter=None, interpolation="bicubic",
                             hflip=0.5 * folder.flip, mean=folder.mean, std=folder.std, re_prob=0.5, re_mode="pixel",
                             re_count=2)  # fmt: skip
    for op in getattr(naive.transforms[2], "ops", None) or itertools.chain(*naive.transforms[2].policy):
        keep_posterizing(op)
    loader = folder.loader("train", 8, policy, shuffle=False, seed=5, erasing=0.5, erasing_count=2)
    loader.set_epoch(2)
    images, _ = next(iter(loader))
    for index, image in enumerate(images):
        with seeded(5, 2, index, 0):
            want = naive(Image.open(folder.train.samples[index][0]).convert("RGB"))
        torch.testing.assert_close(image, want)


@pytest.mark.parametrize("count", [1, 2])
def test_erasing_puts_noise_into_rectangles_of_its_share(colours: data.ImageData, count: int) -> None:
    many = dataclasses.replace(
        colours, train=Arrays(colours.train.images[:1].expand(600, -1, -1, -1), torch.zeros(600))
    )
    plain = next(iter(many.loader("train", 600, "none")))[0]
    erased = next(iter(many.loader("train", 600, "none", erasing=0.25, erasing_count=count)))[0]
    changed = (erased != plain).all(1)
    hit = changed.flatten(1).any(1)
    assert hit.double().mean() == pytest.approx(0.25, abs=0.06)
    noise = erased[changed[:, None].expand_as(erased)]
    assert noise.mean().abs() < 0.05 and noise.std() == pytest.approx(1, abs=0.05)
    boxes = [changed[i, mask.any(1)][:, mask.any(0)] for i, mask in enumerate(changed) if hit[i]]
    whole = np.mean([bool(box.all()) for box in boxes])
    assert whole == 1 if count == 1 else whole < 0.9  # two rectangles seldom make up one


def test_nothing_erased_changes_nothing(colours: data.ImageData) -> None:
    plain = next(iter(colours.loader("train", 32, "standard")))[0]
    again = next(iter(colours.loader("train", 32, "standard", erasing=1e-9)))[0]
    torch.testing.assert_close(plain, again)


def order(loader: Any, epoch: int) -> list[int]:
    loader.set_epoch(epoch)
    return torch.cat([labels for _, labels in loader]).tolist()


@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_repeats_are_those_of_timms_sampler(colours: data.ImageData, repeats: int) -> None:
    once = order(colours.loader("train", 12, "none"), 4)
    loader = colours.loader("train", 12, "none", repeats=repeats)
    sampler = RepeatAugSampler(colours.train, 1, 0, shuffle=False, num_repeats=repeats, selected_round=0)
    assert order(loader, 4) == [once[place] for place in sampler] and len(loader) == 5
    for own in range(2):
        sampler = RepeatAugSampler(colours.train, 2, own, shuffle=False, num_repeats=repeats, selected_round=0)
        assert order(loader.share(own, 2), 4) == [once[place] for place in sampler]
    assert order(loader, 5) != order(loader, 4)


@pytest.mark.parametrize("source", ["colours", "folder"])
def test_every_repeat_has_a_draw_of_its_own_and_resumes(request: pytest.FixtureRequest, source: str) -> None:
    images = request.getfixturevalue(source)

    def batches(start: int, **options: Any) -> list[Any]:
        loader = images.loader("train", 4, POLICIES[0], repeats=3, erasing=0.5, seed=1, **options)
        loader.set_epoch(2, start)
        return list(loader)

    whole = batches(0)
    pictures = torch.cat([x for x, _ in whole])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == len(pictures)
    for (x, y), (u, v) in zip(whole[1:], batches(1, workers=2), strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)


def test_a_jitter_follows_crop_and_flip(colours: data.ImageData, folder: data.ImageData) -> None:
    """Images of one grey value: brightness changes them by a factor in 0.6..1.4, and contrast, in memory, by the dark border."""
    grey = torch.full((300, 3, 16, 16), 100, dtype=torch.uint8)
    inner = colours.transform("jitter-0.4")(grey)[:, :, 4:12, 4:12]
    files = [folder.transform("jitter-0.4")(torch.full((3, 40, 40), 100, dtype=torch.uint8)) for _ in range(100)]
    for images in (inner, torch.stack(files)):
        values = images.flatten(1).double()
        assert (values.amax(1) - values.amin(1)).max() <= 1
        means = values.mean(1)
        assert 45 <= means.min() < 70 and 130 < means.max() <= 155


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augmentation": "mixup"},
            r"augmentation of none, standard, strong, moco, jitter-0.4, or a policy of timm.*got 'mixup'",
        ),
        ({"augmentation": "jitter-1.5"}, "expected an augmentation of .*, got 'jitter-1.5'"),
        ({"augmentation": "jitter-"}, "got 'jitter-'"),
        ({"augmentation": "rand-z3"}, r"expected a policy that timm knows, got 'rand-z3': Unknown"),
        ({"augmentation": "rand-m9x"}, r"expected a policy that timm knows, got 'rand-m9x'"),
        ({"augmentation": 3}, "got 3"),
        ({"erasing": 1.5}, r"erasing in \[0, 1\] and erasing_count of at least 1, got 1.5 and 1"),
        ({"erasing": 0.5, "erasing_count": 0}, "got 0.5 and 0"),
        ({"erasing": "often"}, "got 'often' and 1"),
        ({"repeats": 0}, r"whole repeats of at least 1, and 1 without shuffling, got 0"),
        ({"repeats": 1.5}, "got 1.5"),
        ({"repeats": 3, "shuffle": False}, "got 3"),
    ],
)
def test_bad_options_are_named(colours: data.ImageData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        colours.loader("train", 8, **options)


@pytest.mark.cuda
def test_cuda_augments_alike(colours: data.ImageData) -> None:
    options = {"repeats": 3, "erasing": 0.5, "erasing_count": 2}
    for policy in POLICIES:
        for (x, y), (u, v) in zip(
            colours.loader("train", 12, policy, **options),
            colours.loader("train", 12, policy, device="cuda", **options),
        ):
            assert u.is_cuda and torch.equal(y, v.cpu())
            torch.testing.assert_close(x, u.cpu())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0)])
def test_crops_of_files_are_torchvisions(flip: bool, scale: tuple[float, float]) -> None:
    image = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).permute(2, 0, 1)
    naive = v2.Compose([v2.RandomResizedCrop((24, 32), scale=scale), *([v2.RandomHorizontalFlip()] if flip else [])])
    crop, results = augment.CropResize((24, 32), scale, flip), []
    for number in range(30):
        with seeded(number):
            results.append(crop(image))
        with seeded(number):
            assert torch.equal(results[-1], naive(image))
    assert len({result.numpy().tobytes() for result in results}) == 30


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_normalisation_is_torchvisions_in_either_layout(shape: tuple[int, ...]) -> None:
    images, mean, std = torch.randint(0, 256, shape, dtype=torch.uint8), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    want = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])(images)
    for layout in (images, images.movedim(-3, -1).contiguous().movedim(-1, -3)):
        found = augment.Normalise(mean, std)(layout)
        torch.testing.assert_close(found, want, atol=2e-6, rtol=2e-6)
        assert found.dtype == torch.float32 and found.stride() == layout.stride()
