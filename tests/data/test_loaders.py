"""Loaders: batches do not depend on the start, the number of workers, or the state of the global generators."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torchvision.transforms import v2

from pynas import data
from pynas.data import Arrays, CropFlip, Folder, Loader, PerImage, Views, augment
from pynas.data.loaders import default_workers, seeded
from pynas.errors import InputError

# From Python 3.12 on, forking workers beside torch's threads is warned about; the workers here only index and crop.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load("digits", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> data.ImageData:
    return data.load(make_folder(tmp_path_factory.mktemp("images")), 16, val_fraction=0.2)


def flat(batch: Any) -> list[torch.Tensor]:
    images, labels = batch
    return [*images, labels] if isinstance(images, list) else [images, labels]


def same(first: list[Any], second: list[Any]) -> bool:
    pairs = [(flat(a), flat(b)) for a, b in zip(first, second, strict=True)]
    return all(torch.equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("source", ["digits", "folder"])
@pytest.mark.parametrize(("augmentation", "views"), [("standard", 1), ("strong", 2)])
def test_exactly_resumable(request: pytest.FixtureRequest, source: str, augmentation: str, views: int) -> None:
    images = request.getfixturevalue(source)
    if source == "digits":  # keep the slow augmentation short
        images = dataclasses.replace(images, train=Arrays(images.train.images[:40], images.train.labels[:40]))

    def batches(epoch: int, start: int, **options: Any) -> list[Any]:
        loader = images.loader("train", 4, augmentation, views=views, **options)
        loader.set_epoch(epoch, start)
        return list(loader)

    whole = batches(3, 0)
    assert len(whole) == len(images.train) // 4
    torch.manual_seed(99), random.seed(99), np.random.seed(99)  # noqa: NPY002
    assert same(batches(3, 2), whole[2:])
    assert batches(3, len(whole)) == []
    assert same(batches(3, 1, workers=2), whole[1:])
    assert not same(batches(4, 0), whole)
    assert not same(batches(3, 0, seed=1), whole)
    if views == 2:
        assert not torch.equal(*whole[0][0])


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_seed_and_epoch_each_change_order_and_augmentation(request: pytest.FixtureRequest, source: str) -> None:
    images = request.getfixturevalue(source)

    def first(epoch: int, seed: int, augmentation: str, shuffle: bool) -> torch.Tensor:
        loader = images.loader("train", 16, augmentation, shuffle=shuffle, seed=seed)
        loader.set_epoch(epoch)
        return next(iter(loader))[0]

    for augmentation, shuffle in (("none", True), ("standard", False)):
        batches = [first(epoch, seed, augmentation, shuffle) for epoch, seed in ((0, 0), (1, 0), (0, 1), (1, 1))]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(batches, 2))


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_every_image_and_batch_draws_for_itself(request: pytest.FixtureRequest, source: str) -> None:
    images = request.getfixturevalue(source)
    part: Any
    if source == "digits":
        part = Arrays(images.train.images[:1].expand(8, 3, 8, 8), images.train.labels[:1].expand(8))
    else:
        part = Folder([images.train.samples[0]] * 8)
    loader = dataclasses.replace(images, train=part).loader("train", 4, "standard", shuffle=False)
    (first, _), (second, _) = loader
    assert len({row.numpy().tobytes() for row in first}) > 1
    assert not torch.equal(first, second)


def test_iterating_leaves_the_global_generators_alone(digits: data.ImageData) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for workers in (0, 1):
        next(iter(digits.loader("train", 8, "strong", workers=workers)))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_an_epoch_is_a_permutation_of_full_batches(digits: data.ImageData) -> None:
    images = dataclasses.replace(digits, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = torch.cat([x for x, _ in images.loader("train", 100)])
    assert len(seen) == 1100 and len(images.loader("train", 100)) == 11
    source = [row.numpy().tobytes() for row in images.train.images]
    got = [row.mul(255).round().byte().numpy().tobytes() for row in seen]
    order = [source.index(row) for row in got]
    assert len(set(got)) == 1100 and order != sorted(order)


def test_without_shuffling_all_images_come_in_order_and_normalised(digits: data.ImageData) -> None:
    loader = digits.loader("val", 100)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [100, 100, 88] and len(loader) == 3
    x, y = (torch.cat(part) for part in zip(*batches))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (digits.mean, digits.std))
    torch.testing.assert_close(x, (digits.val.images / 255 - mean) / std)
    assert torch.equal(y, digits.val.labels)


def test_files_are_decoded_like_the_naive_way(folder: data.ImageData) -> None:
    from PIL import Image

    x, y = next(iter(folder.loader("test", 20)))
    for row, label, (path, want) in zip(x, y, folder.test.samples, strict=True):
        image = v2.functional.resize(v2.functional.pil_to_tensor(Image.open(path).convert("RGB")), [18])
        image = v2.functional.center_crop(image, [16, 16]) / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (folder.mean, folder.std))
        torch.testing.assert_close(row, (image - mean) / std)
        assert label == want


@pytest.mark.parametrize("flip", [False, True])
def test_crop_flip_is_torchvisions_crop_and_flip_of_each_image(flip: bool) -> None:
    images = torch.arange(64 * 3 * 6 * 5, dtype=torch.int32).view(64, 3, 6, 5)
    torch.manual_seed(0)
    got = CropFlip(2, flip)(images)
    used = set()
    for before, after in zip(v2.functional.pad(images, [2]), got):
        possible = {}
        for top, left in itertools.product(range(5), range(5)):
            crop = v2.functional.crop(before, top, left, 6, 5)
            possible[(top, left, False)], possible[(top, left, True)] = crop, v2.functional.horizontal_flip(crop)
        matching = [draw for draw, want in possible.items() if torch.equal(after, want)]
        assert matching, "not a crop of its image"
        used.add(matching[0])
    assert len({(top, left) for top, left, _ in used}) > 15  # of 25: each image has an offset of its own
    assert {mirrored for _, _, mirrored in used} == ({False, True} if flip else {False})


def test_digits_are_never_mirrored(digits: data.ImageData) -> None:
    assert digits.transform("standard").flip is False
    assert dataclasses.replace(digits, flip=True).transform("standard").flip is True
    assert digits.transform("strong").flip is False


def test_per_image_and_views_draw_anew() -> None:
    images = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6).expand(32, 3, 6, 6)
    with seeded(0):
        first, second = Views(PerImage(v2.RandomCrop(3)))(images)
    assert first.shape == (32, 3, 3, 3) and not torch.equal(first, second)
    assert len({row.numpy().tobytes() for row in first}) > 5
    with seeded(0):
        again, _ = Views(PerImage(v2.RandomCrop(3)))(images)
    assert torch.equal(first, again)


@pytest.mark.parametrize(("count", "size", "shuffle"), [(0, 4, False), (3, 4, True), (3, 0, False), (3, -1, True)])
def test_too_few_images(count: int, size: int, shuffle: bool) -> None:
    images = Arrays(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    with pytest.raises(InputError, match=r"\[loader\] expected"):
        Loader(images, size, v2.Identity(), (0, 0, 0), (1, 1, 1), shuffle=shuffle)


@pytest.mark.cuda
def test_cuda_gives_the_same_batches(digits: data.ImageData) -> None:
    for workers in (0, 1):
        for (x, y), (u, v) in zip(
            digits.loader("train", 64, "standard"),
            digits.loader("train", 64, "standard", device="cuda", workers=workers),
        ):
            assert u.is_cuda and torch.equal(y, v.cpu())
            torch.testing.assert_close(x, u.cpu())


@pytest.mark.parametrize("source", ["digits", "folder"])
@pytest.mark.parametrize("views", [1, 2])
def test_shares_make_up_the_whole_batch(request: pytest.FixtureRequest, source: str, views: int) -> None:
    loader = request.getfixturevalue(source).loader("train", 4, "standard", views=views, seed=3)
    loader.set_epoch(1, 1)
    whole = flat(next(iter(loader)))
    shares = [loader.share(own, 2) for own in range(2)]
    for share in shares:
        share.set_epoch(1, 1)
    parts = [flat(next(iter(share))) for share in shares]
    for number, tensor in enumerate(whole):
        for own in range(2):
            assert torch.equal(parts[own][number], tensor[own::2])
    with pytest.raises(InputError, match="batches that 3 processes share equally, got 4 images"):
        loader.share(0, 3)


def test_workers_stay_from_epoch_to_epoch_and_end_with_the_loader(folder: data.ImageData) -> None:
    loader = folder.loader("train", 4, "standard", workers=2)
    pids = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
        assert loader._reader is not None and loader._reader._iterator is not None
        pids.append([worker.pid for worker in loader._reader._iterator._workers])
    assert pids[0] == pids[1] == pids[2]
    share = loader.share(0, 2)
    next(iter(share))
    assert [worker.pid for worker in share._reader._iterator._workers] != pids[0]
    workers = [psutil.Process(pid) for pid in pids[0]]
    del loader, share
    gc.collect()
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux alone")
def test_a_script_may_start_workers_anywhere(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """A start method that runs the script again in every worker, as Python 3.14's own does, would fail."""
    (tmp_path / "script.py").write_text(
        "import multiprocessing\n"
        "multiprocessing.set_start_method('forkserver')\n"
        "from pynas import data\n"
        f"loader = data.load({str(make_folder(tmp_path / 'images'))!r}, 16).loader('train', 4, workers=2)\n"
        "print(sum(len(labels) for _, labels in loader), 'images')\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"\d+ images\n", done.stdout) and done.returncode == 0, done.stderr


def test_iterations_beside_each_other_and_those_that_were_left(folder: data.ImageData) -> None:
    plain, loader = (folder.loader("train", 2, "standard", workers=workers) for workers in (0, 2))
    want = list(plain)
    assert same([a for a, _ in zip(loader, loader)], want)  # the second iteration has workers of its own
    next(iter(loader))  # left after a batch
    assert same(list(loader), want)
    loader.set_epoch(1, 2)
    begun = iter(loader)
    loader.set_epoch(0)  # an iteration keeps the epoch that it began with
    plain.set_epoch(1, 2)
    assert same(list(begun), list(plain))


@pytest.mark.parametrize("augmentation", ["strong", "moco", "jitter-0.4"])
def test_colours_are_changed_on_the_device_as_drawn_for_the_image(folder: data.ImageData, augmentation: str) -> None:
    """What a GPU does, on the CPU: whole batches of cropped images, with the numbers drawn for each image and view."""
    loader = folder.loader("train", 4, augmentation, views=2)
    later = folder.loader("train", 4, augmentation, views=2)
    transform = augment.from_files(augmentation, (16, 16), folder.flip, folder.mean, later=True)
    later._fetch.transform = Views(transform, 2)
    raw, _ = later._fetch[(0, 0, np.arange(4), np.zeros(4, np.int64))]
    assert all(isinstance(view, augment.Unfinished) and view.numbers.shape == (4, 13) for view in raw)
    for (views, labels), (others, same_labels) in zip(loader, later, strict=True):
        assert torch.equal(labels, same_labels)
        for view, other in zip(views, others, strict=True):
            off = (view - other).abs() * torch.tensor(folder.std).view(3, 1, 1) * 255
            assert off.mean() < 2  # OpenCV rounds after every change
    assert [len(share) for share in later.share(1, 2)._fetch[(0, 0, np.arange(4), np.zeros(4, np.int64))][0][0]] == [
        2,
        2,
    ]


def test_default_workers(folder: data.ImageData, digits: data.ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(24)), raising=False)
    gpu = torch.device("cuda")
    assert default_workers(folder.train, gpu) == 16 and default_workers(folder.train, torch.device("cpu")) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(folder.train, gpu) == 6 and default_workers(digits.train, gpu) == 0
    assert dataclasses.replace(folder, workers=3).loader("val", 1).workers == 3
    with pytest.raises(InputError, match="workers of at least 0, got -1"):
        folder.loader("val", 1, workers=-1)


def test_paths_take_an_array_and_come_back_as_they_were(tmp_path: Path) -> None:
    samples = [(str(tmp_path / "ärger\udcff"), 1), (str(tmp_path / "b" / "long name.png"), 0)]
    dataset = Folder(samples)
    assert dataset.samples == samples and dataset.select(np.array([1])).samples == samples[1:]
    assert dataset._paths.dtype.kind == "S" and dataset.labels.tolist() == [1, 0]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "long name.png").write_bytes(b"bytes")
    assert dataset.encoded(1) == (b"bytes", samples[1][0])
