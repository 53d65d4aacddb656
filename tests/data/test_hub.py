"""Data sets of Hugging Face's library: parquet files, folders of images and saved ones, and what they lack, by name."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import encoded

from pynas import data
from pynas.data import on_disk
from pynas.data.decode import decode
from pynas.data.hub import read_hub
from pynas.errors import InputError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
TRAIN, TEST = 16, 6


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def made(count: int, labels: Any = None, seed: int = 0, columns: dict[str, Any] | None = None, **features: Any) -> Any:
    """Build a split of images; labels: of each image, by default 0 and 1 in turn."""
    images = [{"bytes": content, "path": f"{n}.png"} for n, content in enumerate(encoded(count, seed=seed))]
    content = {"image": images, "label": [n % 2 for n in range(count)] if labels is None else labels, **(columns or {})}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"]), **features}
    kinds = {name: kind for name, kind in kinds.items() if content[name] is not None}
    return datasets.Dataset.from_dict({name: content[name] for name in kinds}, features=datasets.Features(kinds))


def splits(**others: Any) -> Any:
    return datasets.DatasetDict({"train": made(TRAIN), "validation": made(TEST, seed=1), **others})


def saved(root: Path, content: Any) -> str:
    content.save_to_disk(str(root))
    return f"hf:{root}"


def as_parquet(root: Path, content: Any) -> str:
    root.mkdir()
    for name, split in content.items():
        split.to_parquet(str(root / f"{name}-00000-of-00001.parquet"))
    return f"hf:{root}"


def as_folder(root: Path, content: Any) -> str:
    for name, split in content.items():
        for n, image in enumerate(split.cast_column("image", datasets.Image(decode=False))["image"]):
            path = root / name / "ab"[n % 2] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image["bytes"])
    return f"hf:{root}"


@pytest.mark.parametrize("write", [saved, as_parquet, as_folder])
def test_images_and_labels_are_those_of_the_library(tmp_path: Path, write: Callable[[Path, Any], str]) -> None:
    name = write(tmp_path / "a", splits())
    images = data.load(name, 16, val_images=4)
    assert images.num_classes == 2 and images.image_shape == (3, 16, 16)
    assert (len(images.train), len(images.val), len(images.test)) == (TRAIN - 4, 4, TEST)
    order = np.argsort([n % 2 for n in range(TEST)], kind="stable") if write is as_folder else range(TEST)
    for (image, label), n in zip((images.test[index] for index in range(TEST)), order):
        assert torch.equal(image, decode(encoded(TEST, seed=1)[n], "")) and label == n % 2
    loaders = [images.loader("train", 4, "standard", workers=workers) for workers in (0, 2)]
    loaders[1].set_epoch(0, 1)
    for (x, y), (u, v) in zip(list(loaders[0])[1:], loaders[1], strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)


def test_a_part_of_a_part_has_its_own_rows(tmp_path: Path) -> None:
    train, _ = read_hub(saved(tmp_path / "a", splits())[3:])
    part = train.select(np.array([9, 4, 2, 11])).select(np.array([3, 0, 0]))
    assert [part.encoded(n)[0] for n in range(3)] == [encoded(TRAIN)[row] for row in (11, 9, 9)]
    assert part.labels.tolist() == [1, 1, 1] and part.listing()[0].tolist() == [b"11.png", b"9.png", b"9.png"]


def test_what_grows_with_the_images_is_in_arrays_or_in_the_table(tmp_path: Path) -> None:
    train, _ = read_hub(saved(tmp_path / "a", splits())[3:])
    kinds = {name: type(value) for name, value in vars(train).items()}
    assert kinds == {
        "labels": np.ndarray,
        "_rows": np.ndarray,
        "_split": datasets.Dataset,
        "_name": str,
        "_column": str,
    }


@pytest.mark.parametrize("write", [saved, as_parquet, as_folder])
def test_the_fingerprint_is_that_of_the_content(
    tmp_path: Path, write: Callable[[Path, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load(write(tmp_path / "a", splits()), 16).fingerprint
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "elsewhere")
    assert data.load(write(tmp_path / "b", splits()), 16).fingerprint == first
    others = [data.load(f"hf:{tmp_path / 'b'}", 16, **given).fingerprint
              for given in ({"seed": 1}, {"val_images": 6}, {"limit": 10})]  # fmt: skip
    others += [data.load(f"hf:{tmp_path / 'b'}", 17).fingerprint]
    others += [data.load(write(tmp_path / "c", splits(train=made(TRAIN, seed=2))), 16).fingerprint]
    others += [data.load(write(tmp_path / "d", splits(validation=made(TEST, seed=2))), 16).fingerprint]
    if write is not as_folder:
        labels = [1, 0] * (TRAIN // 2)
        others += [data.load(write(tmp_path / "e", splits(train=made(TRAIN, labels))), 16).fingerprint]
    assert len({first, *others}) == 1 + len(others)


def test_saved_and_parquet_data_have_one_fingerprint_and_large_ones_go_by_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = saved(tmp_path / "a", splits()), as_parquet(tmp_path / "b", splits())
    assert len({data.load(name, 16).fingerprint for name in names}) == 1
    changed = saved(tmp_path / "c", splits(train=made(TRAIN, seed=2)))
    train, _ = read_hub(changed[3:])
    names_of, sizes = train.listing()
    assert names_of.tolist() == [b"%d.png" % n for n in range(TRAIN)]
    assert sizes.tolist() == [len(content) for content in encoded(TRAIN, seed=2)]
    monkeypatch.setattr(on_disk, "MOST_HASHED", 1000)
    monkeypatch.setattr(type(train), "encoded", None)  # no image is read
    assert data.load(names[0], 16).fingerprint == data.load(names[1], 16).fingerprint


def test_the_test_part_is_the_first_split_with_labels(tmp_path: Path) -> None:
    without = made(TEST, [-1] * TEST, seed=3)
    for number, (content, seed) in enumerate([
        (splits(test=made(TEST, seed=2)), 1),
        (splits(test=without), 1),
        (splits(validation=without, test=made(TEST, seed=2)), 2),
        (splits(validation=without.remove_columns("label"), test=made(TEST, seed=2)), 2),
        (datasets.DatasetDict(train=made(TRAIN), test=made(TEST, seed=2)), 2),
    ]):  # fmt: skip
        images = data.load(saved(tmp_path / str(number), content), 16)
        assert images.test.encoded(0)[0] == encoded(TEST, seed=seed)[0]


def test_texts_are_classes_in_their_order(tmp_path: Path) -> None:
    text = datasets.Value("string")
    train = made(4, ["wasp", "ant", "wasp", "bee"], label=text)
    images = data.load(
        saved(tmp_path / "a", splits(train=train, validation=made(2, ["bee", "ant"], label=text))), 16, val_fraction=0
    )
    assert images.train.labels.tolist() == [2, 0, 2, 1] and images.test.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="validation or test with a label of every image"):
        data.load(saved(tmp_path / "b", splits(train=train, validation=made(2, ["fly", "ant"], label=text))), 16)


def test_columns_are_found_by_their_kind_and_then_by_their_name(tmp_path: Path) -> None:
    number = datasets.Value("int64")
    others = {"id": number, "coarse_label": datasets.ClassLabel(names=["x", "y"])}
    columns = {"id": [7] * TRAIN, "coarse_label": [0] * TRAIN}
    content = splits()
    content["train"] = made(TRAIN, columns=columns, **others).rename_column("label", "fine_label")
    content["validation"] = content["validation"].rename_column("label", "fine_label")
    assert data.load(saved(tmp_path / "a", content), 16).num_classes == 2
    content["train"] = content["train"].rename_column("fine_label", "kind")
    with pytest.raises(InputError, match="one column of labels.*got the candidates kind, coarse_label; rename"):
        data.load(saved(tmp_path / "b", content), 16)
    right = made(TRAIN).select_columns("image").rename_column("image", "right")
    both = datasets.concatenate_datasets([made(TRAIN).rename_column("image", "left"), right], axis=1)
    with pytest.raises(InputError, match="one column of images.*got the candidates left, right"):
        data.load(saved(tmp_path / "c", splits(train=both)), 16)
    with pytest.raises(InputError, match="one column of images.*got none among label"):
        data.load(saved(tmp_path / "d", splits(train=made(TRAIN).remove_columns("image"))), 16)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the split train, and validation or test .* got train; split the data set"):
        data.load(saved(tmp_path / "a", datasets.DatasetDict(train=made(TRAIN))), 16)
    with pytest.raises(InputError, match="got one split without a name"):
        data.load(saved(tmp_path / "b", made(TRAIN)), 16)
    with pytest.raises(InputError, match="label of every training image in .*, got none in row 3"):
        data.load(saved(tmp_path / "c", splits(train=made(5, [0, 1, 0, None, 1]))), 16)
    with pytest.raises(InputError, match="without gaps, got 2 in 0..2 and no image of class 1"):
        three = datasets.ClassLabel(names=["a", "b", "c"])
        data.load(saved(tmp_path / "d", splits(train=made(4, [0, 2, 0, 2], label=three))), 16)
    with pytest.raises(InputError, match=f"a data set at '{tmp_path}/none', got .*; check the name and the network"):
        data.load(f"hf:{tmp_path}/none", 16)
    with pytest.raises(InputError, match="a data set at .*config.* got .*not found"):
        data.load(as_parquet(tmp_path / "e", splits()) + ":config", 16)


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = made(TRAIN).cast_column("image", datasets.Image(decode=False))
    rows = [{"bytes": b"no image", "path": None}, *broken["image"][1:-1], None]
    broken = datasets.Dataset.from_dict({"image": rows, "label": made(TRAIN)["label"]}, features=made(1).features)
    train, _ = read_hub(saved(tmp_path / "a", splits(train=broken))[3:])
    assert train.listing()[1][-1] == 0
    with pytest.raises(InputError, match="expected an image, got row 0 of train of .*: no format"):
        train[0]
    with pytest.raises(InputError, match="expected an image, got none in row 15 of train of"):
        train[15]
    name = as_folder(tmp_path / "b", splits())
    train, _ = read_hub(name[3:])
    os.remove(tmp_path / "b" / "train" / "a" / "0.png")
    with pytest.raises(InputError, match=r"expected an image, got .*train/a/0\.png: .*No such file"):
        train[0]
    with pytest.raises(InputError, match=r"images that can be read, got .*0\.png"):
        train.listing()


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None = None) -> Any:
        asked.append((name, config))
        raise ConnectionError("Couldn't reach it\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf:owner/name", "hf:owner/name:small"):
        with pytest.raises(InputError, match="got Couldn't reach it on the Hub; check the name and the network"):
            data.load(name)
    assert asked == [("owner/name", None), ("owner/name", "small")]


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'datasets for hf: data, got none; pip install "\.\[hub-data\]"'):
        data.load("hf:owner/name")
