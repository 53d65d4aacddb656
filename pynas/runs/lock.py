"""One process at a time in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

from pynas.errors import InputError
from pynas.files import TEMPORARY

# Open folders whose lock this process holds, by device and inode, with their names.
_held: dict[tuple[int, int], tuple[int, Path]] = {}
# The folder of this process's work, also where the first process holds it for all.
_folder: Path | None = None


def hold(folder: Path) -> None:
    """Work in a run's folder alone until this process ends, however it ends; sweeps what a killed one left half-written.

    The lock is on the folder itself (flock): it leaves no file behind, and a folder that cannot be written to has one too.
    Under torchrun the first process holds it for all. A file system without locks has none, and neither has Windows.

    Raises:
        InputError: another process works there.
    """
    global _folder
    if os.environ.get("RANK", "0") != "0":
        _folder = folder
        return
    try:
        import fcntl
    except ImportError:  # Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    key = (os.fstat(handle).st_dev, os.fstat(handle).st_ino)
    if key in _held:
        os.close(handle)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"[run] expected to work alone in {folder}, got another process at work there; "
                         "wait for it, or use another folder") from None  # fmt: skip
    except OSError:
        os.close(handle)
        return
    _held[key] = (handle, folder)
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _leave_to_parent() -> None:
    """Close the locked folders in a forked process, as a reader of images, so that it holds no lock when its parent is killed."""
    for handle, _ in _held.values():
        os.close(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def held() -> Path | None:
    """The folder that this process works in, the last one where there were several."""
    return list(_held.values())[-1][1] if _held else _folder
