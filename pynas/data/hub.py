"""Data sets read by the library datasets of Hugging Face: from its hub, or from a folder on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas.data.datasets import Stored, read_file
from pynas.errors import InputError

# Names that decide where several columns could be the images, or the labels.
_IMAGE_NAMES = ("image", "img", "images", "picture")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "cls")
# Splits that may be the test part; the first whose images have labels is.
_TEST = ("validation", "valid", "val", "dev", "test")
# Rows whose sizes are read at once.
_ROWS = 10_000


class HubImages(Stored):
    """Images of a split, whose bytes stay in its memory-mapped table, or in the files that it names.

    split: a `datasets.Dataset` of one column of undecoded images. rows: int64 `[N]`, the images' places in it.
    """

    def __init__(self, split: Any, labels: np.ndarray, rows: np.ndarray, name: str) -> None:
        super().__init__(labels)
        self._split, self._rows, self._name = split, rows, name
        (self._column,) = split.column_names

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of an image file, and its place in the data set."""
        row = int(self._rows[index])
        image = self._split[row][self._column]
        name = f"row {row} of {self._name}"
        if image is None:
            raise InputError(f"[data] expected an image, got none in {name}; remove the row")
        data, path = image["bytes"], image["path"]
        if data is None:
            data = read_file(path)
        return data, f"{path} in {name}" if path else name

    def listing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the names of the files, without their folders, and their sizes."""
        parts = [_listed(table.column(0)) for table in self._split.with_format("arrow").iter(_ROWS)]
        names, sizes = (np.concatenate(column) for column in zip(*parts))
        return names[self._rows], sizes[self._rows]

    def select(self, rows: np.ndarray) -> HubImages:
        """Return the images at several indices, as a dataset."""
        return HubImages(self._split, self.labels[rows], self._rows[rows], self._name)


def read_hub(text: str) -> tuple[HubImages, HubImages]:
    """Return the training and the test images of a data set.

    The test part is the first of the splits validation and test that has labels: of ImageNet, whose test images have the labels
    -1, validation. Labels are classes of the data set, whole numbers, or texts, whose classes are sorted.

    text: a folder (of parquet files, of images, or written by `save_to_disk`) or a name on the hub; then ":" and the name of a
        configuration where the data set has several.

    Raises:
        InputError: datasets is missing, no such data set or configuration, no network, columns or splits that do not show which
            they are, or a training image without a label.
    """
    try:
        import datasets
    except ImportError:
        raise InputError('[data] expected datasets for hf: data, got none; pip install ".[hub-data]"') from None
    splits = _opened(text)
    if "train" not in splits:
        raise _no_parts(text, splits)
    features = splits["train"].features
    image = _column(
        features, [[n for n, f in features.items() if isinstance(f, datasets.Image)]], _IMAGE_NAMES, "images", text
    )
    label = _column(features, _label_candidates(features), _LABEL_NAMES, "labels", text)
    classes = _classes(splits["train"], label)

    def part(split: str, labels: np.ndarray) -> HubImages:
        undecoded = splits[split].select_columns([image]).cast_column(image, datasets.Image(decode=False))
        return HubImages(undecoded, labels, np.arange(len(labels)), f"{split} of {text}")

    labels = _labels(splits["train"], label, classes)
    if (labels < 0).any():
        raise InputError(f"[data] expected a label of every training image in {text}, got none in row {int(labels.argmin())}; "
                         "remove the row")  # fmt: skip
    for split in (split for split in _TEST if split in splits and {image, label} <= set(splits[split].column_names)):
        test_labels = _labels(splits[split], label, classes)
        if len(test_labels) and (test_labels >= 0).all():
            return part("train", labels), part(split, test_labels)
    raise _no_parts(text, splits)


def _opened(text: str) -> dict[str, Any]:
    """Return the splits of a data set by name."""
    import datasets

    folder = Path(text).is_dir()
    name, _, config = (text, "", "") if folder else text.partition(":")
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)  # no line for each of its retries
    try:
        if folder and any((Path(text) / file).exists() for file in ("dataset_dict.json", "state.json")):
            splits = datasets.load_from_disk(text)
        else:
            splits = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub's client, its readers and the network each raise their own
        raise InputError(f"[data] expected a data set at {text!r}, got {' '.join(str(error).split())}; check the name and the "
                         "network, or name a folder on this machine") from None  # fmt: skip
    finally:
        client.setLevel(level)
    return dict(splits) if isinstance(splits, dict) else {"one split without a name": splits}


def _no_parts(text: str, splits: Any) -> InputError:
    return InputError(f"[data] expected the split train, and validation or test with a label of every image, in {text}, got "
                      f"{', '.join(splits)}; split the data set, or name another one")  # fmt: skip


def _label_candidates(features: Any) -> list[list[str]]:
    """Names of the columns that may be labels: of classes, of whole numbers, of texts."""
    import datasets

    kinds: list[list[str]] = [[], [], []]
    for name, feature in features.items():
        if isinstance(feature, datasets.ClassLabel):
            kinds[0].append(name)
        elif isinstance(feature, datasets.Value) and "int" in feature.dtype:
            kinds[1].append(name)
        elif isinstance(feature, datasets.Value) and "string" in feature.dtype:
            kinds[2].append(name)
    return kinds


def _column(features: Any, kinds: Sequence[list[str]], usual: Sequence[str], what: str, text: str) -> str:
    """Return the one column of the first kind that there is; of several the one with a usual name.

    Raises:
        InputError: none, or several without a usual name.
    """
    candidates = next((names for names in kinds if names), [])
    chosen = candidates if len(candidates) == 1 else [name for name in usual if name in candidates]
    if not chosen:
        got = f"the candidates {', '.join(candidates)}" if candidates else f"none among {', '.join(features)}"
        raise InputError(f"[data] expected one column of {what}, or one named {', '.join(usual)}, in {text}, got {got}; "
                         "rename or remove columns")  # fmt: skip
    return chosen[0]


def _classes(split: Any, column: str) -> Any:
    """Return the sorted texts of a column as an arrow array, None for a column of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _arrow(split, column)
    if pa.types.is_integer(values.type):
        return None
    unique = pc.unique(values).drop_null()
    return unique.take(pc.array_sort_indices(unique))


def _labels(split: Any, column: str, classes: Any) -> np.ndarray:
    """Return the labels of a split, int64 `[N]`, -1 where there is none or a text that is none of the classes."""
    import pyarrow.compute as pc

    values = _arrow(split, column)
    if classes is not None:
        values = pc.index_in(values, value_set=classes.cast(values.type))
    return pc.fill_null(values, -1).to_numpy().astype(np.int64)


def _arrow(split: Any, column: str) -> Any:
    return split.select_columns([column]).with_format("arrow")[:].column(0)


def _listed(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the names of image files, bytes `[N]`, and their sizes, int64 `[N]`, of an arrow column of undecoded images."""
    import pyarrow.compute as pc

    paths = [path or "" for path in pc.struct_field(images, "path").to_pylist()]
    sizes = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
    try:
        sizes = [os.stat(path).st_size if size is None and path else size or 0 for path, size in zip(paths, sizes)]
    except OSError as error:
        raise InputError(f"[data] expected images that can be read, got {error}; restore or remove the file") from None
    return np.array([os.fsencode(os.path.basename(path)) for path in paths], np.bytes_), np.array(sizes, np.int64)
