"""Loading images: content, split, and every kind of bad input."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pynas import data
from pynas.data import on_disk
from pynas.data.images import search_split, some_of, stratified_split
from pynas.errors import InputError


def arrays(count: int = 60, classes: int = 3, shape: tuple[int, ...] = (6, 5, 3), seed: int = 0) -> dict[str, Any]:
    """A random dataset in which every class occurs equally often."""
    rng = np.random.default_rng(seed)
    return {
        f"{letter}_{part}": value
        for part in ("train", "test")
        for letter, value in (
            ("x", rng.integers(0, 256, (count, *shape), dtype=np.uint8)),
            ("y", np.arange(count) % classes),
        )
    }


def write(path: Path, **content: Any) -> Path:
    np.savez(path, **content)
    return path


def test_digits_are_the_real_ones() -> None:
    images = data.load("digits")
    assert (len(images.train), len(images.val), len(images.test)) == (1149, 288, 360)
    assert images.image_shape == (3, 32, 32) and images.num_classes == 10 and not images.flip
    # Runs of different machines and versions compare only if the split stays.
    assert images.fingerprint == "cc0d2f665f326c0c"
    everything = torch.cat([part.images for part in (images.train, images.val, images.test)])
    assert everything.shape == (1797, 3, 32, 32) and everything.dtype == torch.uint8
    # The mean of 4x4 pixels of a bilinear enlargement is near the pixel; sorted means match the source's.
    small = torch.nn.functional.avg_pool2d(everything[:, 0].double(), 4).mean((1, 2)).sort().values
    source = torch.from_numpy(load_digits().images).mean((1, 2)).mul(255 / 16).sort().values
    assert (small - source).abs().max() < 2.5


def test_digits_at_their_own_size_are_exact() -> None:
    images = data.load("digits", 8)
    got = torch.cat([part.images[:, 0] for part in (images.train, images.val, images.test)]).flatten(1)
    want = torch.from_numpy(np.round(load_digits().images * 255 / 16).astype(np.uint8)).flatten(1)
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, want.tolist()))


def test_resizing_is_bilinear() -> None:
    small, large = data.load("digits", 8), data.load("digits", 32)
    want = np.asarray(Image.fromarray(small.train.images[3, 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR))
    got = large.train.images[3].numpy().astype(int)
    assert np.abs(got - want.astype(int)).max() <= 1  # PIL rounds between the two directions


def test_parts_are_disjoint_stratified_and_repeat(tmp_path: Path) -> None:
    content = arrays(count=200, classes=4)
    path = write(tmp_path / "a.npz", **content)
    images = data.load(path, val_fraction=0.25, seed=3)
    rows = {content["x_train"][i].transpose(2, 0, 1).tobytes(): int(content["y_train"][i]) for i in range(200)}
    parts = [
        {image.numpy().tobytes(): int(y) for image, y in zip(part.images, part.labels)}
        for part in (images.train, images.val)
    ]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == rows
    assert set(images.val.labels.bincount().tolist()) <= {12, 13} and len(images.val) == 50
    again = data.load(path, val_fraction=0.25, seed=3)
    assert torch.equal(images.val.images, again.val.images) and images.fingerprint == again.fingerprint
    other = data.load(path, val_fraction=0.25, seed=4)
    assert not torch.equal(images.val.images, other.val.images) and images.fingerprint != other.fingerprint


def test_statistics_are_those_of_the_training_part(tmp_path: Path) -> None:
    images = data.load(write(tmp_path / "a.npz", **arrays()))
    values = images.train.images.double() / 255
    assert images.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert images.std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3)])
def test_npz_layouts(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = arrays(shape=shape)
    content["y_train"] = content["y_train"][:, None].astype(np.uint8)
    images = data.load(write(tmp_path / "a.npz", **content), val_fraction=0)
    assert images.image_shape == (3, 7, 5) and len(images.val) == 0 and images.flip
    want = content["x_train"].reshape(60, 7, 5, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(images.train.images.numpy(), np.broadcast_to(want, (60, 3, 7, 5)))
    assert images.train.labels.tolist() == [i % 3 for i in range(60)]
    assert data.load(tmp_path / "a.npz", 4).train.images.shape == (48, 3, 4, 4)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    content = arrays()
    first = data.load(write(tmp_path / "a.npz", **content)).fingerprint
    assert data.load(write(tmp_path / "b.npz", **content)).fingerprint == first
    assert data.load(tmp_path / "a.npz", 8).fingerprint != first
    content["x_test"][5, 2, 1, 0] ^= 1
    assert data.load(write(tmp_path / "c.npz", **content)).fingerprint != first


def test_the_fingerprint_of_a_folder_tells_every_change(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder(tmp_path / "images")
    first = data.load(root, 16)
    assert data.load(root, 16).fingerprint == first.fingerprint

    def changed() -> bool:
        return data.load(root, 16).fingerprint != first.fingerprint

    root = root.rename(tmp_path / "elsewhere")
    assert not changed()
    image = root / "train" / "ant" / "3.png"
    content = image.read_bytes()
    image.unlink()
    assert changed()
    image.with_name("x.png").write_bytes(content)
    assert changed()
    image.with_name("x.png").unlink()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert changed()
    image.write_bytes(content)
    assert not changed()
    image.with_name("99.png").write_bytes(content)
    assert changed()
    image.with_name("99.png").unlink()
    (root / "val" / "bee" / "0.png").unlink()
    assert changed()


def test_large_folders_are_told_by_names_and_sizes(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "MOST_HASHED", 1000)
    root = make_folder(tmp_path / "images")
    first, image = data.load(root, 16).fingerprint, root / "train" / "ant" / "3.png"
    image.write_bytes(image.read_bytes()[::-1])  # not noticed, as documented
    assert data.load(root, 16).fingerprint == first
    image.write_bytes(image.read_bytes()[1:])
    assert data.load(root, 16).fingerprint != first


def order(part: Any) -> list[Any]:
    if isinstance(part, data.Folder):
        return part.samples
    return [image.numpy().tobytes() for image in part.images]


@pytest.mark.parametrize("kind", ["folder", "npz"])
@pytest.mark.parametrize("limit", [None, 60])
def test_batches_to_rate_on_are_mixed_once_by_the_seed(
    tmp_path: Path, make_folder: Callable[..., Path], kind: str, limit: int | None
) -> None:
    if kind == "folder":
        source = make_folder(tmp_path / "images", classes=("a", "b", "c"), count=30)
    else:
        content = arrays(count=90)
        source = write(tmp_path / "a.npz", **{**content, "y_train": np.arange(90) // 30})
    first = data.load(source, 16, val_fraction=0.4, limit=limit)
    again = data.load(source, 16, val_fraction=0.4, limit=limit)
    other = data.load(source, 16, val_fraction=0.4, limit=limit, seed=1)
    batches = [labels.tolist() for _, labels in first.loader("val", 8)]
    assert all(len(set(labels)) > 1 for labels in batches) and sorted(batches[0]) != batches[0]
    assert batches == [labels.tolist() for _, labels in first.loader("val", 8)]
    assert order(first.val) == order(again.val) and first.fingerprint == again.fingerprint
    assert order(first.val) != order(other.val)
    # Only the order differs from the stratified split.
    labels = np.sort(first.train.labels.numpy() if kind == "npz" else [label for _, label in first.train.samples])
    assert np.bincount(labels).tolist() == [(20 if limit else 30) * 6 // 10] * 3
    calibration = [set(labels.tolist()) for _, labels in first.loader("train", 12)]
    assert all(len(labels) > 1 for labels in calibration)


def test_the_split_is_the_stratified_one_in_another_order() -> None:
    train, val = search_split(np.arange(40) % 2, 0.5, 3)
    plain_train, plain_val = stratified_split(np.arange(40) % 2, 0.5, 3)
    assert np.array_equal(train, plain_train) and np.array_equal(np.sort(val), plain_val)
    assert not np.array_equal(val, plain_val)


BAD = {
    "no y_test": (lambda c: c.pop("y_test"), "no y_test"),
    "floats": (lambda c: c.update(x_train=c["x_train"] / 255), "uint8 images in x_train, got float64"),
    "flat": (lambda c: c.update(x_test=c["x_test"].reshape(60, -1)), "got the shape"),
    "channels": (lambda c: c.update(x_train=c["x_train"][..., :2]), "got the shape"),
    "empty": (lambda c: c.update(x_train=c["x_train"][:0], y_train=c["y_train"][:0]), "got the shape"),
    "sizes": (lambda c: c.update(x_test=c["x_test"][:, 1:]), "one image size"),
    "label count": (lambda c: c.update(y_train=c["y_train"][1:]), "60 whole numbers in y_train"),
    "label type": (lambda c: c.update(y_test=c["y_test"] / 1.0), "whole numbers in y_test, got float64"),
    "one class": (lambda c: c.update(y_train=c["y_train"] * 0), "at least 2 classes"),
    "gap": (lambda c: c.update(y_train=c["y_train"] * 2), "without gaps"),
    "negative": (lambda c: c.update(y_train=c["y_train"] - 1), "without gaps"),
    "test label": (lambda c: c.update(y_test=c["y_test"] + 1), "test labels in 0..2, got 1..3"),
    "single": (lambda c: c.update(y_train=np.arange(60) // 59, y_test=c["y_test"] % 2), "every class"),
    "objects": (lambda c: c.update(y_train=np.array([{}] * 60)), "without pickles"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_npz(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    content = arrays()
    spoil(content)
    with pytest.raises(InputError, match=r"^\[data\] ") as error:
        data.load(write(tmp_path / "a.npz", **content))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_damaged_npz(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", **arrays())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"expected a whole \.npz"):
        data.load(path)
    path.write_text("no archive")
    with pytest.raises(InputError, match=r"expected a whole \.npz"):
        data.load(path)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_fraction(fraction: float) -> None:
    with pytest.raises(InputError, match="val_fraction"):
        data.load("digits", val_fraction=fraction)


def test_bad_names_and_settings() -> None:
    with pytest.raises(InputError, match=r"digits, cifar10, cifar100.*'digit'"):
        data.load("digit")
    with pytest.raises(InputError, match="image size"):
        data.load("digits", 0)
    with pytest.raises(InputError, match="seed"):
        data.load("digits", seed=-1)
    with pytest.raises(InputError, match=r"augmentation.*'mixup'"):
        data.load("digits").transform("mixup")
    with pytest.raises(InputError, match=r"part.*'valid'"):
        data.load("digits").loader("valid", 8)


def write_cifar(root: Path) -> None:
    """Files in the layout of CIFAR-10, with few and random images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    with pytest.raises(InputError, match="download=True"):
        data.load("cifar10", root=tmp_path)
    write_cifar(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *args: True)
    images = data.load("cifar10", root=tmp_path, val_fraction=0.5)
    assert (len(images.train), len(images.val), len(images.test)) == (50, 50, 20)
    assert images.num_classes == 10 and images.image_shape == (3, 32, 32) and images.flip


def test_folder(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    images = data.load(make_folder(tmp_path / "insects"), 32, val_fraction=0.2)
    assert images.name == "insects" and images.num_classes == 2 and images.image_shape == (3, 32, 32)
    assert (len(images.train), len(images.val), len(images.test)) == (16, 4, 20)
    assert all("/train/" in path for path, _ in images.train.samples + images.val.samples)
    assert all("/val/" in path for path, _ in images.test.samples)
    assert not {path for path, _ in images.train.samples} & {path for path, _ in images.val.samples}
    for augmentation in ("none", "standard", "strong"):
        x, y = next(iter(images.loader("train", 8, augmentation)))
        assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert data.load(tmp_path / "insects").image_shape == (3, 224, 224)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_bad_folders(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="one subfolder"):
        data.load(tmp_path)
    with pytest.raises(InputError, match="at least 2 classes"):
        data.load(make_folder(tmp_path / "one", classes=("ant",)))
    root = make_folder(tmp_path / "two")
    (root / "val" / "bee").rename(root / "val" / "wasp")
    with pytest.raises(InputError, match=r"same classes.*'bee', 'wasp'"):
        data.load(root)
    root = make_folder(tmp_path / "three")
    (root / "train" / "ant" / "0.png").write_text("no image")
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^\[data\] expected an image, got .*0\.png: .*$"):
            list(data.load(root, 16, val_fraction=0).loader("train", 1, workers=workers))


@pytest.mark.parametrize("limit", [10, 57, 200])
def test_a_limit_keeps_the_classes_in_equal_shares(limit):
    whole, some = data.load("digits", 8, val_fraction=0), data.load("digits", 8, val_fraction=0, limit=limit)
    assert len(some.train) == limit and len(some.test) == len(whole.test)
    counts = np.bincount(some.train.labels.numpy(), minlength=10)
    assert counts.max() - counts.min() <= 1
    known = {image.numpy().tobytes() for image in whole.train.images}
    assert len({image.numpy().tobytes() for image in some.train.images} & known) == limit
    again = data.load("digits", 8, val_fraction=0, limit=limit)
    assert torch.equal(again.train.images, some.train.images)
    assert not torch.equal(data.load("digits", 8, val_fraction=0, limit=limit, seed=1).train.images, some.train.images)


def test_limits_that_keep_all_or_too_little():
    assert data.load("digits", 8, limit=10**6).fingerprint == data.load("digits", 8).fingerprint
    with pytest.raises(InputError, match="a limit of at least 10 images, one per class, got 9"):
        data.load("digits", 8, limit=9)


def test_a_limit_on_rare_classes():
    labels = np.array([0] * 50 + [1] * 3)
    assert np.bincount(labels[some_of(labels, 10, 0)]).tolist() == [7, 3]
