"""Checkpoints: weights, optimiser state and position in one safetensors file, with a digest of every byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pynas.errors import InputError
from pynas.files import FORMAT_VERSION, atomic

CHECKPOINT = "pynas.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the description that was saved with them."""

    tensors: Mapping[str, torch.Tensor]
    made_from: Mapping[str, Any]
    digest: str

    def with_prefix(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b over names, types, shapes and bytes, in name order."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def save_checkpoint(
    path: str | Path, tensors: Mapping[str, torch.Tensor], kind: str = CHECKPOINT, **made_from: Any
) -> None:
    """Write tensors atomically; the file's metadata holds kind, version, digest and `made_from` (plain JSON values)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": kind,
        "version": str(FORMAT_VERSION),
        "digest": digest(tensors),
        "made_from": json.dumps(made_from),
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_checkpoint(path: str | Path, kind: str = CHECKPOINT) -> Checkpoint:
    """Read and check a file that `save_checkpoint` wrote; nothing in it is executed.

    Raises:
        InputError: missing, truncated or changed since it was written, of another kind or version.
    """
    if not Path(path).is_file():
        raise InputError(f"[checkpoint] expected the file {path}, got nothing there")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"[checkpoint] expected a whole safetensors file, got a damaged one: {path} ({error})") from None
    if metadata.get("format") != kind:
        raise InputError(f"[checkpoint] expected the format {kind!r}, got {metadata.get('format')!r} in {path}")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise InputError(
            f"[checkpoint] expected format version {FORMAT_VERSION}, got {metadata.get('version')!r} in {path}; "
            "it was written by another version of pynas: use that version, or another run folder"
        )
    if metadata.get("digest") != digest(tensors):
        raise InputError(f"[checkpoint] expected the bytes that were written, got others: {path} is damaged")
    return Checkpoint(tensors, json.loads(metadata["made_from"]), metadata["digest"])


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that a resumed run needs: `model.*`, and the optimiser's state as `optimizer.<parameter number>.<name>`."""
    tensors = {f"model.{name}": value for name, value in trained_state(module).items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def restore_training(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put `training_tensors` back.

    Raises:
        InputError: the checkpoint is of another network.
    """
    load_weights(checkpoint, module)
    content = optimizer.state_dict()
    content["state"] = {}
    for name, value in checkpoint.with_prefix("optimizer.").items():
        number, key = name.split(".", 1)
        content["state"].setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(content)


def load_weights(checkpoint: Checkpoint, module: nn.Module) -> None:
    """Load the `model.*` tensors into a method, strictly.

    Raises:
        InputError: names or shapes differ.
    """
    have, want = checkpoint.with_prefix("model."), trained_state(module)
    differing = sorted(set(have) ^ set(want)) or [n for n in want if want[n].shape != have[n].shape]
    if differing:
        raise InputError(
            f"[checkpoint] expected the weights of this network, got others: {len(differing)} tensors differ, "
            f"the first is {differing[0]!r}"
        )
    module.load_state_dict(have, strict=False)


def trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without a frozen teacher, which is kept in a file of its own."""
    return {name: value for name, value in module.state_dict().items() if not name.startswith("teacher.")}
