"""Shards of webdataset: what the library itself reads from them, in any order, and every kind of bad shard by name."""

from __future__ import annotations

import builtins
import gc
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import encoded, write_shards, write_tar

from pynas import data
from pynas.data import on_disk
from pynas.data.decode import decode
from pynas.data.shards import read_shards
from pynas.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
CLASSES = [("a.cls", b"0"), ("b.cls", b"1")]


def shards(tmp_path: Path, train: list[tuple[str, bytes]]) -> str:
    (good,) = encoded(1)
    write_tar(tmp_path / "val.tar", [("a.png", good), ("a.cls", b"0")])
    return str(write_tar(tmp_path / "train.tar", train))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_samples_are_those_that_the_library_reads(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    pattern = write_shards(tmp_path)
    train, test = read_shards(pattern)
    for part, urls in ((train, pattern), (test, str(tmp_path / "val-000.tar"))):
        read = list(webdataset.WebDataset(urls, shardshuffle=False))
        assert len(part) == len(read)
        for index, sample in enumerate(read):
            content = sample.get("png") or sample["jpg"]
            label = int(sample["cls"]) if "cls" in sample else json.loads(sample["json"])["label"]
            got, name = part.encoded(index)
            assert got == content and sample["__key__"] in name
            image, number = part[index]
            assert number == label and torch.equal(image, decode(content, ""))
    gc.collect()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long_and_in_folders_and_other_files_are_left_out(tmp_path: Path, form: int) -> None:
    first, second = encoded(2)
    long = "deep/" * 15 + "s" * 90
    members = [("README", b"hello"), ("x/a.PNG", first), ("x/a.cls", b"1\n"), ("x/a.txt", b"a caption"), (f"{long}.png", second),
               (f"{long}.cls", b"0")]  # fmt: skip
    write_tar(tmp_path / "val.tar", members, form)
    train, test = read_shards(str(write_tar(tmp_path / "train.tar", members, form)))
    assert [train.encoded(n)[0] for n in range(2)] == [first, second] and train.labels.tolist() == [1, 0]
    assert test.encoded(1)[1] == f"the sample {long} in {tmp_path / 'val.tar'}"


def test_a_data_set_of_shards(tmp_path: Path) -> None:
    images = data.load(write_shards(tmp_path), 16, val_images=6, limit=20)
    assert (len(images.train), len(images.val), len(images.test)) == (14, 6, 8) and images.num_classes == 2
    assert np.bincount(images.val.labels).tolist() == [3, 3]

    def batches(start: int, workers: int) -> list[Any]:
        loader = images.loader("train", 4, "strong", views=2, workers=workers)
        loader.set_epoch(2, start)
        return list(loader)

    whole = batches(0, 0)
    assert len(whole) == 3
    for (x, y), (u, v) in zip(whole[1:], batches(1, 2), strict=True):
        assert torch.equal(x[0], u[0]) and torch.equal(x[1], u[1]) and torch.equal(y, v)


def test_a_part_of_a_part_has_its_own_samples(tmp_path: Path) -> None:
    train, _ = read_shards(write_shards(tmp_path))
    part = train.select(np.array([9, 4, 2, 11])).select(np.array([3, 0]))
    assert [part.encoded(n) for n in range(2)] == [train.encoded(11), train.encoded(9)]
    assert (
        part.labels.tolist() == train.labels[[11, 9]].tolist()
        and part.listing()[0].tolist() == train.listing()[0][[11, 9]].tolist()
    )


def test_what_grows_with_the_images_is_in_arrays(tmp_path: Path) -> None:
    train, _ = read_shards(write_shards(tmp_path, train=60))
    held = {name: value for name, value in vars(train).items() if not isinstance(value, np.ndarray)}
    assert list(held) == ["paths"] and len(held["paths"]) == 3


def test_the_fingerprint_tells_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(write_shards(tmp_path / "a"), 16).fingerprint
    assert data.load(write_shards(tmp_path / "b"), 16).fingerprint == first
    pattern = write_shards(tmp_path / "c")
    with tarfile.open(tmp_path / "c" / "train-001.tar") as tar:
        place = next(member.offset_data for member in tar if member.name.endswith(".png")) + 60
    path = tmp_path / "c" / "train-001.tar"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert data.load(pattern, 16).fingerprint != first
    monkeypatch.setattr(on_disk, "MOST_HASHED", 1000)
    assert data.load(pattern, 16).fingerprint == data.load(write_shards(tmp_path / "d"), 16).fingerprint
    monkeypatch.undo()
    others = [data.load(write_shards(tmp_path / "e"), 16, **given).fingerprint
              for given in ({"seed": 1}, {"val_images": 6}, {"limit": 10})]  # fmt: skip
    others += [data.load(write_shards(tmp_path / "e"), 17).fingerprint]
    others += [data.load(write_shards(tmp_path / "f", train=26), 16).fingerprint]
    others += [data.load(write_shards(tmp_path / "g", classes=4), 16).fingerprint]
    assert len({first, *others}) == 7


@pytest.mark.parametrize("word", ["validation", "val", "test"])
def test_test_shards_are_found_beside(tmp_path: Path, word: str) -> None:
    write_shards(tmp_path / "train [1]")
    folder = tmp_path / "train [1]"
    (folder / "val-000.tar").rename(folder / f"{word}-7.tar")
    assert read_shards(str(folder / "train-{000..002}.tar"))[1].paths == [str(folder / f"{word}-7.tar")]


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def last_header(path: Path) -> int:
    with tarfile.open(path) as tar:
        return tar.getmembers()[-1].offset


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: (p / "train-001.tar").unlink(), r"3 shards, got no .*train-001\.tar; restore it"),
    "two missing": (lambda p: [(p / f"train-00{n}.tar").unlink() for n in (0, 2)], r"no .*train-000\.tar, nor 1 others"),
    "no test": (lambda p: (p / "val-000.tar").unlink(), r"test shards beside .*, got none as .*validation-.*, .*val-.*, .*test"),
    "empty": (lambda p: (p / "train-001.tar").write_bytes(b""), r"train-001\.tar, damaged at its start"),
    "no tar": (lambda p: (p / "train-001.tar").write_bytes(b"x" * 5000), r"train-001\.tar, damaged at its start"),
    "cut in an image": (lambda p: cut(p / "train-000.tar", last_header(p / "train-000.tar") - 600),
                        r"train-000\.tar, damaged at or after the sample n00"),
    "cut between files": (lambda p: cut(p / "train-000.tar", last_header(p / "train-000.tar")),
                          "sample n0021 in|after the sample n00.*no end of the archive"),
    "cut before its end": (lambda p: cut(p / "train-001.tar", last_header(p / "train-001.tar") + 1024),
                           r"train-001\.tar, damaged at or after the sample n0022: no end of the archive"),
    "compressed": (lambda p: tarfile.open(p / "train-000.tar", "w:gz").close(), "without compression, got .*000.tar"),
    "no samples": (lambda p: tarfile.open(p / "train-000.tar", "w").close(), r"samples in .*train-000\.tar, got none"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_shards_are_named(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    pattern = write_shards(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        data.load(pattern, 16)
    assert "\n" not in str(error.value) and str(error.value).startswith("[data] expected")


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    path = tmp_path / "train-002.tar"
    content, place = bytearray(path.read_bytes()), last_header(path)
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train-002\.tar"):
        data.load(pattern, 16)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.cls", b"0")], r"an image \(jpg, .*\) in the sample a in .*train\.tar, got cls; mend the shard"),
        ([("a.png", b"x"), ("a.txt", b"0")], "a class in the sample a in .*, got png, txt; mend the shard"),
        ([("a.png", b"x"), ("a.cls", b"cat")], "number of a class, from 0 on, in .cls of the sample a in .*, got b'cat'"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "number of a class.*got b'-1'"),
        ([("a.png", b"x"), ("a.json", b"{}")], "number of a class, from 0 on, in .json of the sample a"),
        ([("a.png", b"x"), ("a.json", b'{"label": true}')], "number of a class"),
        ([("a.png", b"x"), ("a.json", b"[3")], "number of a class"),
        ([("a.png", b"x"), ("a.cls", b"0"), ("b.png", b"x"), ("b.cls", b"2")], r"got 2 in 0\.\.2 and no image of class 1 in"),
        ([("a.png", b"x"), ("a.cls", b"0")], "at least 2 classes, got 1"),
    ],
)  # fmt: skip
def test_bad_samples_are_named(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(shards(tmp_path, members), 16)


def test_what_changes_after_the_index_is_named(tmp_path: Path) -> None:
    train, _ = read_shards(write_shards(tmp_path))
    cut(tmp_path / "train-000.tar", 700)
    with pytest.raises(InputError, match=r"bytes of the sample n0000 in .*train-000\.tar, got 188"):
        train.encoded(0)
    (tmp_path / "train-000.tar").unlink()
    with pytest.raises(InputError, match=r"the sample n0000 in .*train-000\.tar, got .*No such file"):
        train.encoded(0)
    pattern = shards(tmp_path / "b", [("a.png", b"no image"), *CLASSES[:1], ("b.png", encoded(1)[0]), *CLASSES[1:]])
    images = data.load(pattern, 16, val_fraction=0)
    with pytest.raises(InputError, match=r"expected an image, got the sample a in .*train\.tar: no format"):
        list(images.loader("train", 2, workers=1))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("a/shard-{0..3}.tar", '"train" in the name of training shards'), ("a/train-{0..3.tar", "a pattern as")],
)
def test_bad_patterns(pattern: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    for number in range(4):
        Path(f"a/shard-{number}.tar").touch()
    with pytest.raises(InputError, match=message):
        data.load(pattern)


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith(("webdataset", "braceexpand")):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'webdataset for shards, got none; pip install "\.\[webdataset\]"'):
        data.load("train-{0..3}.tar")
