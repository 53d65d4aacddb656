"""Data sets of torchvision by name: arrays in memory, files on disk, and items of any other form."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from made_images import encoded
from PIL import Image

from pynas import data
from pynas.data.vision import Items
from pynas.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write_textures(root: Path, count: int = 6) -> Path:
    """Files in the layout of torchvision's DTD."""
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for seed, part in enumerate(("train1", "val1", "test1")):
        names = []
        for kind in ("banded", "dotted"):
            (folder / "images" / kind).mkdir(parents=True, exist_ok=True)
            for n, content in enumerate(encoded(count, "JPEG", seed)):
                names.append(f"{kind}/{kind}_{part}_{n}.jpg")
                (folder / "images" / names[-1]).write_bytes(content)
        (folder / "labels" / f"{part}.txt").write_text("\n".join(names) + "\n")
    return root


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 20)):
        batch = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [i % 4 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list("abcd")}))
    return root


class Own(torchvision.datasets.VisionDataset):
    """Items that no file and no array holds: image n has the red level n, grey levels where `mode` is "L"."""

    def __init__(self, root: str, split: str = "train", mode: Any = "RGB", transform: Any = None) -> None:
        if split not in ("trainval", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        super().__init__(root)
        self.mode, self.count = mode, 12 if split == "trainval" else 6

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= self.count:
            raise IndexError
        return Image.new("RGB", (20 + index, 24), (index, 0, 255)).convert(self.mode), index % 2


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that makes a data set known to torchvision as "Own"."""

    def register(made: Any) -> None:
        monkeypatch.setattr(torchvision.datasets, "Own", made, raising=False)
        monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, "Own"))

    return register


def test_files_are_read_as_files(tmp_path: Path) -> None:
    images = data.load("torchvision:DTD", 16, root=write_textures(tmp_path / "a"), val_images=4)
    assert images.name == "DTD" and images.num_classes == 2 and isinstance(images.train, data.Folder)
    assert (len(images.train), len(images.val), len(images.test)) == (8, 4, 12)
    assert all("_test1_" in path for path, _ in images.test.samples)  # there is a split "val" too
    naive = torchvision.datasets.DTD(tmp_path / "a", "test")
    for index in range(12):
        image, label = images.test[index]
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(naive[index][0])) and label == naive[index][1]
    again = data.load("torchvision:DTD", 16, root=write_textures(tmp_path / "b"), val_images=4)
    assert again.fingerprint == images.fingerprint
    (tmp_path / "b" / "dtd" / "dtd" / "images" / "banded" / "banded_train1_0.jpg").write_bytes(encoded(1, "JPEG", 9)[0])
    assert data.load("torchvision:DTD", 16, root=tmp_path / "b", val_images=4).fingerprint != images.fingerprint


def test_arrays_are_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *args: True)
    images, same = data.load("torchvision:CIFAR100", root=tmp_path), data.load("cifar100", root=tmp_path)
    assert images.fingerprint == same.fingerprint and torch.equal(images.train.images, same.train.images)


@pytest.mark.parametrize(("shape", "wanted"), [((3, 8, 8), (3, 8, 8)), ((8, 8, 3), (3, 8, 8)), ((8, 9), (3, 8, 9))])
def test_arrays_of_every_layout(
    tmp_path: Path, own: Callable[[Any], None], shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    class Digits:
        """A data set as MNIST, SVHN and STL10 are."""

        def __init__(self, root: str, train: bool) -> None:
            self.data = torch.arange(10 * np.prod(shape)).to(torch.uint8).view(10, *shape)
            self.targets = torch.arange(10) % 2

        def __len__(self) -> int:
            return 10

    own(Digits)
    images = data.load("torchvision:Own", root=tmp_path, val_fraction=0)
    source = torch.arange(10 * np.prod(shape)).to(torch.uint8).view(10, *shape)
    source = source if shape[0] == 3 else source.permute(0, 3, 1, 2) if len(shape) == 3 else source[:, None]
    assert images.image_shape == wanted and torch.equal(images.train.images, source.expand(10, *wanted))


def test_items_are_read_one_by_one(tmp_path: Path, own: Callable[[Any], None]) -> None:
    own(Own)
    images = data.load("torchvision:Own", 16, root=tmp_path, val_images=4)
    assert isinstance(images.train, Items) and (len(images.train), len(images.val), len(images.test)) == (8, 4, 6)
    for index in range(6):
        image, label = images.test[index]
        assert image.shape == (3, 24, 20 + index) and image[:, 5, 5].tolist() == [index, 0, 255] and label == index % 2
    part = images.test.select(np.array([5, 4, 2])).select(np.array([2, 0]))
    assert [part[n][0].shape[2] for n in range(2)] == [22, 25] and part.labels.tolist() == [0, 1]
    batches = [list(images.loader("train", 4, "standard", workers=workers)) for workers in (0, 2)]
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(*batches, strict=True))


def test_the_fingerprint_of_items_tells_their_pixels(tmp_path: Path, own: Callable[[Any], None]) -> None:
    prints = []
    for mode in ("RGB", "RGB", "L"):
        own(lambda root, split, mode=mode: Own(root, split, mode))
        with pytest.raises(InputError):
            data.load("torchvision:Own", 16, root=tmp_path)  # no class
        own(
            type(
                "Own", (Own,), {"__init__": lambda self, root, split, mode=mode: Own.__init__(self, root, split, mode)}
            )
        )
        prints.append(data.load("torchvision:Own", 16, root=tmp_path).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_bad_items_are_named(tmp_path: Path, own: Callable[[Any], None]) -> None:
    class Floats(Own):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.new("F", (5, 5)), index % 2

    with pytest.raises(InputError, match="an image, got mode 'F'.* for item 3 of Floats"):
        Items(Floats("", "val"), np.zeros(6), np.arange(6))[3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing", "a class of torchvision.datasets, as torchvision:CIFAR100, got 'Nothing'"),
        ("folder", "a class of torchvision.datasets.*got 'folder'"),
        ("EuroSAT", "with a training and a test part, got EuroSAT; write its images as train/CLASS"),
        (
            "Flowers102",
            r"got Dataset not found.*; get it once by torchvision.datasets.Flowers102\(..., download=True\), or",
        ),
        ("CIFAR10", "CIFAR10 in the folder .*; get it once by torchvision.datasets.CIFAR10"),
        ("STL10", "STL10 in the folder .*; get it once by torchvision.datasets.STL10"),
        ("FER2013", "FER2013 in the folder .*; put its files there, or give the folder"),
        ("EMNIST", "a split of train, trainval in torchvision's EMNIST, got: Unknown value 'train'"),
    ],
)
def test_bad_names(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        data.load(f"torchvision:{name}", root=tmp_path)
    assert "\n" not in str(error.value)


def test_targets_must_be_classes(tmp_path: Path, own: Callable[[Any], None]) -> None:
    class Boxes(Own):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            assert index == 0  # one item shows it
            return Image.new("RGB", (5, 5)), [1.0, 2.0]

    own(Boxes)
    with pytest.raises(InputError, match="a whole number as class of every image, got float64 of shape"):
        data.load("torchvision:Own", root=tmp_path)
