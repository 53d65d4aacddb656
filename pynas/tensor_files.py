"""Write and read tensors as safetensors files with a header and a digest of every byte; reading executes no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pynas.errors import InputError
from pynas.files import atomic, check_header, header


@dataclass(frozen=True)
class TensorFile:
    """Content of a file: tensors by name, metadata of their origin, and the digest of their bytes."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Any]
    digest: str

    def with_prefix(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose names begin with `prefix`, by the rest of the name."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def write_tensors(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, torch.Tensor],
    others: Mapping[str, str] | None = None,
    /,
    **metadata: Any,
) -> None:
    """Write tensors and metadata (plain JSON values) atomically; others: more texts of the header, in an order that varies."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = header(kind, **metadata) | {"digest": digest(tensors)}
    content["check"] = _check(content)
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, {"pynas": json.dumps(content), **(others or {})})
        except SafetensorError as error:  # so safetensors reports a full disk
            raise OSError(f"{path} cannot be written: {error}") from None


def read_tensors(path: str | Path, kind: str) -> TensorFile:
    """Read and check a file that `write_tensors` wrote.

    Raises:
        InputError: a file that is missing, truncated, changed since it was written, of another kind or version.
    """
    with _opened(path, kind) as (file, content):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if content.get("digest") != digest(tensors) or content.pop("check", None) not in (None, _check(content)):
        raise InputError(f"[{kind}] expected the bytes that were written, got others: {path} is damaged")
    return TensorFile(tensors, content["metadata"], content["digest"])


def read_metadata(path: str | Path, kind: str) -> dict[str, Any]:
    """Read the metadata of a file alone; the bytes of its tensors are neither read nor checked.

    Raises:
        InputError: a file that is missing or damaged, or of another kind or version.
    """
    with _opened(path, kind) as (_, content):
        return content["metadata"]


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield safetensors' reader of a file and its checked header; what cannot be read meanwhile is an InputError."""
    if not Path(path).is_file():
        raise InputError(f"[{kind}] expected the file {path}, got none; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get("pynas", "null"))
            check_header(content, kind, path)
            yield file, content
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"[{kind}] expected a whole safetensors file, got a damaged one: {path} ({error})") from None


def _check(content: Mapping[str, Any]) -> str:
    """Digest of the header, which the digest of the tensors does not cover."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b digest of the names, types, shapes and bytes of tensors, in the order of their names."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
