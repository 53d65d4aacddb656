"""Record of the images that a run is made from, kept as data.json; every stage compares its images with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pynas.data import ImageData
from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.runs.options import Options
from pynas.runs.settings import CONFIG, STATUS, Settings
from pynas.train.team import is_first_process

RECORD = "data.json"
_KIND = "pynas.data"
# Entries of a run's folder that do not depend on the images.
_FREE = {CONFIG, RECORD, STATUS, "tensorboard", "mlflow", "wandb", "trackers.json"}
# Largest share of the training images that a recipe's `val_images` takes.
MOST_RATED = 0.2


def check_images(folder: Path, images: ImageData) -> None:
    """Compare images with those that a run's folder was made from; record them where nothing is made yet.

    The split into training and validation images follows their order: without one file, the whole split is another one,
    and paths would be rated on images that they were trained on.

    Raises:
        InputError: other images, another split or another order than those of the first stage.
    """
    path = folder / RECORD
    if path.exists():
        before = read_json(path, _KIND)["fingerprint"]
        if before == images.fingerprint:
            return
        if any(entry.name not in _FREE and not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"[data] expected the images that {folder} was made from, with the fingerprint {before}, got "
                             f"{images.fingerprint}, as files of {images.name!r} were added, removed, renamed or changed "
                             "since; restore them, or use another run folder")  # fmt: skip
    if is_first_process():
        parts = {part: len(getattr(images, part)) for part in ("train", "val", "test")}
        write_json(path, header(_KIND) | {"name": images.name, "fingerprint": images.fingerprint, "images": parts})


def split_of(settings: Settings, options: Options) -> dict[str, Any]:
    """Return how the training images of a run are limited and split, as `pynas.data.load` takes it.

    The papers' numbers of validation images are those of ImageNet: of fewer images, a fifth is split off. options: the method's.
    """
    limit, images = {"limit": settings.limit_images}, settings.val_images
    if images is None:
        return {**limit, "val_fraction": settings.val_fraction}
    of_recipe = options.settings(settings.recipe).get("val_images") == images
    return {**limit, "val_images": images, "val_at_most": MOST_RATED if of_recipe else None}


def check_rated(metadata: Mapping[str, Any], images: ImageData, path: Path) -> None:
    """Raise InputError where scores are known to be of other images, or of another order of them."""
    if metadata.get("data") not in (None, images.fingerprint):
        raise InputError(f"[data] expected scores of the images with the fingerprint {images.fingerprint}, got scores of "
                         f"{metadata['data']} in {path}; rate again")  # fmt: skip
