"""How many training images are split off for rating, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pynas import data
from pynas.data.images import Split, count_classes
from pynas.errors import InputError


def test_so_many_images_are_split_off_each_class_in_its_share(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    images = data.load("digits", 8, val_images=100)
    assert (len(images.train), len(images.val)) == (1437 - 100, 100)
    counts = np.bincount(images.val.labels.numpy())
    assert counts.min() >= 9 and counts.max() <= 11
    folder = data.load(make_folder(tmp_path / "images"), 16, val_images=6, limit=16)
    assert (len(folder.train), np.bincount(folder.val.labels).tolist()) == (10, [3, 3])


def test_a_number_is_the_share_that_makes_it_up_and_has_its_own_fingerprint() -> None:
    by_number, by_share = data.load("digits", 8, val_images=288), data.load("digits", 8, val_fraction=288 / 1437)
    assert by_number.fingerprint == by_share.fingerprint != data.load("digits", 8, val_images=287).fingerprint


@pytest.mark.parametrize(("at_most", "rated"), [(0.5, 100), (0.05, 72), (None, 100)])
def test_a_number_above_its_largest_share_becomes_that_share(at_most: float | None, rated: int) -> None:
    assert len(data.load("digits", 8, val_images=100, val_at_most=at_most).val) == rated  # 0.05 x 1437 = 71.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_images": 0}, "val_images of at least 1, got 0"),
        ({"val_images": 1437}, "val_images below the 1437 training images, got 1437"),
        ({"val_images": 9}, "every class in both parts.*choose another val_images"),
        ({"val_images": 1430}, "every class in both parts.*choose another val_images"),
        ({"val_images": 100, "limit": 100}, "val_images below the 100 training images, got 100"),
        ({"val_images": 100, "val_fraction": 0.2}, "val_fraction or val_images, got both, 0.2 and 100; leave one out"),
        ({"val_fraction": 1}, r"val_fraction in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_split_off_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load("digits", 8, **given)


def test_the_split_of_a_few_labels() -> None:
    labels = np.arange(40) % 4
    train, rated = Split(images=8, seed=2).parts(labels)
    assert sorted([*train, *rated]) == list(range(40)) and np.bincount(labels[rated]).tolist() == [2, 2, 2, 2]
    assert Split(limit=40).limited(labels) is None
    assert np.bincount(labels[Split(limit=10).limited(labels)]).max() == 3


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(InputError, match="got 3 in 0..3 and no image of class 2 in birds; number the classes anew"):
        count_classes(np.array([0, 1, 3, 3]), np.array([0]), "birds")
    with pytest.raises(InputError, match="test images, got none in birds"):
        count_classes(np.array([0, 1]), np.array([], np.int64), "birds")
