"""Images of random pixels, and the sources that the tests write them to."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(count: int, kind: str = "PNG", seed: int = 0) -> list[bytes]:
    """Files of images of several sizes."""
    rng, files = np.random.default_rng(seed), []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)).save(file, kind)
        files.append(file.getvalue())
    return files


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(root: Path, train: int = 24, test: int = 8, classes: int = 2) -> str:
    """Write three training shards and one for validation, and return their pattern; PNG with .cls, and JPEG with .json."""
    for part, count, shards in (("train", train, 3), ("val", test, 1)):
        pictures = encoded(count, "PNG", len(part)), encoded(count, "JPEG", len(part))
        for shard in range(shards):
            members = []
            for n in range(shard, count, shards):
                members += [
                    [(f"n{n:04d}.png", pictures[0][n]), (f"n{n:04d}.cls", b"%d" % (n % classes))],
                    [
                        (f"n{n:04d}.json", json.dumps({"label": n % classes}).encode()),
                        (f"n{n:04d}.jpg", pictures[1][n]),
                    ],
                ][n % 2]
            write_tar(root / f"{part}-{shard:03d}.tar", members)
    return str(root / "train-{000..002}.tar")
