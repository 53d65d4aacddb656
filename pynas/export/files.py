"""Save and load a network: its weights, architecture and space in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.export.features import features
from pynas.export.subnet import standalone
from pynas.spaces import Architecture, Space, get
from pynas.tensor_files import read_tensors, write_tensors

SUBNET = "pynas.subnet"


def save_subnet(
    path: str | Path, model: nn.Module, space: Space, architecture: Architecture, num_classes: int, **metadata: Any
) -> None:
    """Write a network of `subnet`, with a digest of its weights and further metadata, atomically."""
    description = {"space": space.name, "architecture": str(architecture), "num_classes": num_classes}
    write_tensors(path, SUBNET, model.state_dict(), **description, **metadata)


def load_subnet(path: str | Path, space: Space | None = None) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network of a file, in evaluation mode, and the file's metadata.

    space: needed where the file's space is not one of pynas's own.

    Raises:
        InputError: a file that is missing, damaged, of another version, or of an unknown space.
    """
    checkpoint = read_tensors(path, SUBNET)
    metadata = checkpoint.metadata
    shape = tuple(metadata["image_shape"]) if "image_shape" in metadata else None
    model = standalone(space or get(metadata["space"]), metadata["architecture"], metadata["num_classes"], shape)
    try:
        model.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"[export] expected the weights of {metadata['architecture']!r}, got others in {path}: {reason}"
        ) from None
    return model.eval(), metadata


def from_pretrained(path: str | Path, *, features_only: bool = False, space: Space | None = None) -> nn.Module:
    """Return the network of a file, or of the folder of a run or a retraining, in evaluation mode.

    features_only: return the network of its feature maps instead, for detection and segmentation; see `features`.

    Raises:
        InputError: see `load_subnet`.
    """
    path = Path(path)
    model, metadata = load_subnet(path / "subnet.safetensors" if path.is_dir() else path, space)
    return features(model, tuple(metadata["image_shape"])) if features_only else model
