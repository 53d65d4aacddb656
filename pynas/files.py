"""Write and read the files of a run: each is written whole or not at all, checked when read, and never pickled."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pynas.errors import InputError

FORMAT_VERSION = 2
# Prefix of the names of files that are still being written; a killed process may leave one.
TEMPORARY = ".writing-"


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success flush the file to disk and rename it to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document atomically; keys stay in their order."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a JSON document whose header names this kind and this version of the format.

    Raises:
        InputError: a file that is missing, not JSON, of another kind or of another version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"[{kind}] expected the file {path}, got none; check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"[{kind}] expected a JSON document in {path}, got {error}") from None
    check_header(content, kind, path)
    return content


def header(kind: str, **metadata: Any) -> dict[str, Any]:
    """Header of a file: its kind, the version of the format, and metadata (plain JSON values) of its origin."""
    return {"format": kind, "version": FORMAT_VERSION, "metadata": metadata}


def check_header(content: Any, kind: str, path: str | Path) -> None:
    """Raise InputError unless a header is of this kind and of this version of the format."""
    if not isinstance(content, dict) or content.get("format") != kind:
        name = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"[{kind}] expected a file of the format {kind!r}, got {name!r} in {path}")
    if content.get("version") != FORMAT_VERSION:
        raise InputError(
            f"[{kind}] expected format version {FORMAT_VERSION}, got {content.get('version')!r} in {path}; "
            "it was written by another version of pynas: use that version, or another run folder"
        )


def write_arrays(path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], **metadata: Any) -> None:
    """Write named arrays and a header as a compressed .npz file, atomically."""
    with atomic(path) as temporary:
        encoded = np.frombuffer(json.dumps(header(kind, **metadata)).encode(), dtype=np.uint8)
        with temporary.open("wb") as file:
            np.savez_compressed(file, **{"__header__": encoded, **arrays})  # type: ignore[arg-type]


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the metadata of a file that `write_arrays` wrote; zip's CRC checks every byte.

    Raises:
        InputError: a file that is missing, truncated, damaged, of another kind or version.
    """
    try:
        with Path(path).open("rb") as source, np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(bytes(arrays.pop("__header__")).decode())
    except FileNotFoundError:
        raise InputError(f"[{kind}] expected the file {path}, got none; check the path") from None
    except Exception as error:  # numpy, zipfile and zlib each raise their own errors
        raise InputError(f"[{kind}] expected a whole .npz file, got a damaged one: {path} ({error})") from None
    check_header(content, kind, path)
    return arrays, content["metadata"]
