"""CIFAR-10 small enough to travel: all 60,000 images as AVIF sheets (38 dB) in 28 MiB, or exactly in 95 MiB, also in shards.

    python -m bench.pack_images pack cifar10.npz FOLDER [--form avif|jpeg|exact] [--quality 88] [--shards 1]
    python -m bench.pack_images unpack FOLDER OUT.npz [--first N]

FOLDER gets shard_0.npz ...; shards may arrive one by one, and are unpacked when all are there. No lossless form of all
images is below 40 MiB: PNG takes 128, lossless WebP 95 as sheets; 1.8 bits for a colour value are not enough. JPEG takes 37 MiB
for 38 dB. Images that went through AVIF or JPEG are not CIFAR-10 any more: OUT.npz says so in `made_from`, and so must every
result. An unfinished training takes up to 29 MiB beside the images.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench._command import command_line, run

ROWS, COLUMNS, SIDE = (
    20,
    25,
    32,
)  # images of a sheet; SIDE is a multiple of JPEG's blocks
PARTS = ("train", "test")
# Colours at full resolution: at 32x32, half of it shows.
FORMS: dict[str, dict[str, Any]] = {
    "avif": {"format": "AVIF", "subsampling": "4:4:4", "speed": 8},
    "jpeg": {"format": "JPEG", "subsampling": "4:4:4", "optimize": True, "progressive": True},
    "exact": {"format": "WEBP", "lossless": True, "method": 4},
}


def main() -> None:
    parser = command_line(__file__, __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("images", type=Path, help="x_train, y_train, x_test, y_test")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--form", choices=list(FORMS), default="avif", help="exact is lossless WebP")
    packing.add_argument("--quality", type=int, default=88, help="of AVIF or JPEG, which needs 93 for as much")
    packing.add_argument("--shards", type=int, default=1)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("out", type=Path)
    unpacking.add_argument("--first", type=int, help="only so many of each part, for a rehearsal")
    packing.error = unpacking.error = parser.error  # type: ignore[method-assign]
    options = parser.parse_args()
    if options.command == "unpack":
        print(unpack(options.folder, options.out, options.first))
        return
    for path in pack(options.images, options.folder, options.form, options.quality, options.shards):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def pack(images: Path, folder: Path, form: str = "avif", quality: int = 88, shards: int = 1) -> list[Path]:
    """Write the images as sheets of a form of FORMS into numbered shards."""
    folder.mkdir(parents=True, exist_ok=True)
    said = "exact" if form == "exact" else f"{form} of quality {quality}, 4:4:4"
    paths = [folder / f"shard_{number}.npz" for number in range(shards)]
    with np.load(images) as source:
        for number, path in enumerate(paths):
            content: dict[str, np.ndarray] = {}
            for part in PARTS:
                x, y = source[f"x_{part}"], source[f"y_{part}"]
                own = slice(len(x) * number // shards, len(x) * (number + 1) // shards)
                blobs = [encoded(sheet(x[own][start : start + ROWS * COLUMNS]), form, quality)
                         for start in range(0, len(x[own]), ROWS * COLUMNS)]  # fmt: skip
                content[f"y_{part}"] = y[own].astype(np.uint8)
                content[f"{part}_ends"] = np.cumsum([len(blob) for blob in blobs])
                content[f"{part}_sheets"] = np.frombuffer(b"".join(blobs), np.uint8)
            np.savez(path, shard=number, shards=shards, form=said, **content)
    return paths


def unpack(folder: Path, out: Path, first: int | None = None) -> str:
    """Write x_train, y_train, x_test, y_test and made_from (JSON) from all shards of a folder; returns made_from.

    first: only so many images of each part.

    Raises:
        SystemExit: no shard, or one is missing.
    """
    paths = sorted(folder.glob("shard_*.npz"))
    found: dict[int, dict[str, np.ndarray]] = {}
    for path in paths:
        with np.load(path) as shard:
            found[int(shard["shard"])] = dict(shard)
    wanted = int(next(iter(found.values()))["shards"]) if found else 1
    missing = sorted(set(range(wanted)) - set(found))
    if missing:
        raise SystemExit(f"[images] expected {wanted} shards in {folder}, got none of {missing}")
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        arrays[f"x_{part}"] = np.concatenate([decoded(found[number], part) for number in range(wanted)])[:first]
        arrays[f"y_{part}"] = np.concatenate([found[number][f"y_{part}"] for number in range(wanted)])[:first]
    made_from = json.dumps({"form": str(found[0]["form"]), **{part: len(arrays[f"y_{part}"]) for part in PARTS}})
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".new.npz")
    np.savez(fresh, made_from=made_from, **arrays)
    fresh.replace(out)
    return made_from


def sheet(images: np.ndarray) -> np.ndarray:
    """Images [N, 32, 32, 3] side by side, black where there are too few."""
    rows = -(-len(images) // COLUMNS)
    whole = np.zeros((rows * COLUMNS, *images.shape[1:]), np.uint8)
    whole[: len(images)] = images
    return whole.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)


def encoded(picture: np.ndarray, form: str, quality: int) -> bytes:
    """One sheet's file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, quality=quality, **FORMS[form])
    return file.getvalue()


def decoded(shard: dict[str, np.ndarray], part: str) -> np.ndarray:
    """The images of a shard's part."""
    blob, ends = shard[f"{part}_sheets"].tobytes(), shard[f"{part}_ends"].tolist()
    pictures = [np.asarray(Image.open(io.BytesIO(blob[begin:end])).convert("RGB"))
                for begin, end in zip([0, *ends], ends)]  # fmt: skip
    tiles = [
        picture.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3) for picture in pictures
    ]
    return np.concatenate(tiles)[: len(shard[f"y_{part}"])]


if __name__ == "__main__":
    run(main)
