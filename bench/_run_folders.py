"""Run folders that travel: NAME.tar.gz in pieces of a bounded size, so that a later call goes on where one was cut."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

PIECE = 15 * 2**20  # bytes


def pack(run: Path, folder: Path, piece: int = PIECE) -> list[Path]:
    """Write a run's folder to FOLDER/NAME.tar.gz.0, .1, ...; nothing where there is no run yet.

    A finished run, whose network is taken out, goes without its checkpoints, which are most of it.
    """
    if not run.is_dir():
        return []
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        archive.add(run, run.name, filter=without_checkpoints if finished(run) else None)
    content = packed.getbuffer()
    for old in folder.glob(f"{run.name}.tar.gz.*"):
        old.unlink()
    paths = []
    for number, start in enumerate(range(0, len(content), piece)):
        path = folder / f"{run.name}.tar.gz.{number}"
        fresh = folder / f"{run.name}.new"
        fresh.write_bytes(content[start : start + piece])
        os.replace(fresh, path)
        paths.append(path)
    return paths


def finished(run: Path) -> bool:
    """Return whether `pynas run` has nothing left to do in a folder."""
    return (run / "subnet.safetensors").exists()


def without_checkpoints(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave checkpoints out of an archive."""
    return None if Path(member.name).name == "checkpoints" else member


def restore(packed: Path, runs: Path) -> list[str]:
    """Unpack every run of a folder of pieces into `runs`; a run that is there is newer, and stays. Returns the names."""
    names = []
    for first in sorted(packed.glob("*.tar.gz.0")):
        name = first.name.removesuffix(".tar.gz.0")
        if (runs / name).exists():
            continue
        pieces = sorted(packed.glob(f"{name}.tar.gz.*"), key=lambda path: int(path.suffix[1:]))
        content = io.BytesIO(b"".join(path.read_bytes() for path in pieces))
        runs.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=content, mode="r:gz") as archive:
            archive.extractall(runs, filter="data")
        names.append(name)
    return names
