"""A found network as a file: its weights, its architecture and its space in one safetensors file."""

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
    """Write a network that `subnet` gave, atomically, with a digest of its weights."""
    described = {"space": space.name, "architecture": str(architecture), "num_classes": num_classes}
    write_tensors(path, SUBNET, model.state_dict(), **described, **metadata)


def load_subnet(path: str | Path, space: Space | None = None) -> tuple[nn.Module, Mapping[str, Any]]:
    """Build the network that a file describes and load its weights; also gives what it was made from.

    space: needed where the file's space is not one of pynas's own. The network comes in evaluation mode.

    Raises:
        InputError: missing, damaged, of another version, or of an unknown space.
    """
    checkpoint = read_tensors(path, SUBNET)
    metadata = checkpoint.metadata
    shape = tuple(metadata["image_shape"]) if "image_shape" in metadata else None
    model = standalone(space or get(metadata["space"]), metadata["architecture"], metadata["num_classes"], shape)
    try:
        model.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(
            f"[export] expected the weights of {metadata['architecture']!r}, got others in {path}: {first}"
        ) from None
    return model.eval(), metadata


def from_pretrained(path: str | Path, *, features_only: bool = False, space: Space | None = None) -> nn.Module:
    """The network of a file, or of the folder of a run or a retraining, in evaluation mode.

    features_only: its feature maps for detection and segmentation, see `features`.

    Raises:
        InputError: nothing there, or as `load_subnet`.
    """
    path = Path(path)
    model, metadata = load_subnet(path / "subnet.safetensors" if path.is_dir() else path, space)
    return features(model, tuple(metadata["image_shape"])) if features_only else model
