"""Save and load a network: its weights, architecture and space in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pynas.copies import unwrapped
from pynas.errors import InputError
from pynas.export.distilled import add_distillation, is_distilled
from pynas.export.features import features
from pynas.export.image_size import follow_image_size, resize_positions
from pynas.export.subnet import standalone
from pynas.methods.dna.scaling import scaled_space
from pynas.spaces import SPACES, Architecture, Space, get
from pynas.supernets import KINDS
from pynas.supernets.shapes import kept_generators
from pynas.tensor_files import read_tensors, write_tensors

SUBNET = "pynas.subnet"


def save_subnet(
    path: str | Path, model: nn.Module, space: Space, architecture: Architecture, num_classes: int, **metadata: Any
) -> None:
    """Write a network of `subnet`, with a digest of its weights and further metadata, atomically.

    metadata: `phi` of a network that is the architecture scaled, see `pynas.methods.dna.scaling`; anything else is kept.
    space: of a kind that `pynas.supernets.KINDS` has, since `load_subnet` builds the network again; for one that is not among
        `pynas.spaces.SPACES`, `load_subnet` is to be given the space.

    Raises:
        InputError: a network that `load_subnet` could not read, before anything is written: of a space of one's own modules,
            or with other tensors than this architecture has. `write_torch_export` writes any network.
    """
    architecture, tensors = space.resolve(architecture), unwrapped(model).state_dict()
    description = {"space": space.name, "architecture": str(architecture), "num_classes": num_classes, **metadata}
    if is_distilled(unwrapped(model)):
        description["distilled"] = True
    _check_readable(tensors, space, description)
    write_tensors(path, SUBNET, tensors, **description)


def _image_shape(metadata: Mapping[str, Any], space: Space) -> tuple[int, int, int]:
    return tuple(metadata.get("image_shape") or (3, space.image_size, space.image_size))  # type: ignore[return-value]


def fresh_network(
    space: Space,
    architecture: Architecture | str,
    num_classes: int,
    image_shape: tuple[int, int, int] | None = None,
    *,
    phi: float | str | None = None,
    distilled: bool = False,
) -> nn.Module:
    """Return a network with fresh weights (torch's generator), as `save_subnet` and `load_subnet` describe it.

    phi: the architecture scaled, see `pynas.methods.dna.scaling.compound_scaling`; None: as it is.
    distilled: with a second classifier, see `add_distillation`.

    Raises:
        InputError: see `standalone`, `scaled_space` and `add_distillation`.
    """
    architecture = space.resolve(architecture)
    if phi is not None:
        space = scaled_space(space, architecture, phi)
        (architecture,) = space.architectures()
    model = standalone(space, architecture, num_classes, image_shape)
    return add_distillation(model) if distilled else model


def _described(space: Space, metadata: Mapping[str, Any]) -> nn.Module:
    """Return the network that a file's metadata describe, with fresh weights."""
    return fresh_network(space, metadata["architecture"], metadata["num_classes"], _image_shape(metadata, space),
                         phi=metadata.get("phi"), distilled=metadata.get("distilled", False))  # fmt: skip


def _check_readable(tensors: Mapping[str, Tensor], space: Space, metadata: Mapping[str, Any]) -> None:
    """Raise InputError unless `load_subnet` builds a network with tensors of these names and shapes."""
    if space.kind not in KINDS:
        raise InputError(f"[export] expected a network of a space that load_subnet builds, of the kinds {', '.join(KINDS)}, got "
                         f"{space.name} of the kind {space.kind!r}: write it by write_torch_export, or add a line to "
                         "pynas.supernets.KINDS")  # fmt: skip
    with kept_generators(torch.device("cpu")):
        try:
            with torch.device("meta"):
                built = _described(space, metadata).state_dict()
        except (NotImplementedError, RuntimeError):  # a builder of one's own that reads values
            built = _described(space, metadata).state_dict()
    ours, theirs = ({name: list(value.shape) for name, value in state.items()} for state in (tensors, built))
    for name in sorted({*ours, *theirs}, key=lambda name: (name in ours and name in theirs, name)):
        if ours.get(name) != theirs.get(name):
            described = f"{metadata['architecture']} of {space.name} with {metadata['num_classes']} classes"
            raise InputError(f"[export] expected the tensors that load_subnet builds for {described}, {name!r} of the shape "
                             f"{theirs.get(name)}, got {ours.get(name)}: write the network by write_torch_export")  # fmt: skip


def load_subnet(
    path: str | Path, space: Space | None = None, image_size: int | None = None
) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network of a file, in evaluation mode, and the file's metadata, with its `image_shape` (3, H, W).

    A file of a run tells the `mean` and `std` per channel that its images in [0, 1] were normalised with.

    space: needed where the file's space is not one of pynas's own.
    image_size: side in pixels of the images that the network is to take, None for the file's; the learned positions of a
        vision transformer are resampled.

    Raises:
        InputError: a file that is missing, damaged, of another version, or of an unknown space; a size that the network's
            patches do not divide.
    """
    checkpoint = read_tensors(path, SUBNET)
    metadata = checkpoint.metadata
    if space is None and metadata["space"] not in SPACES:
        raise InputError(f"[export] expected the space {metadata['space']!r} of {path}, which is none of pynas's own, got "
                         "none: pass it as space=")  # fmt: skip
    space = space or get(metadata["space"])
    shape = _image_shape(metadata, space)
    model = _described(space, metadata)
    try:
        model.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"[export] expected the weights of {metadata['architecture']!r}, got others in {path}: {reason}"
        ) from None
    if image_size is not None:
        resize_positions(model, shape[1], image_size)
        shape = (shape[0], image_size, image_size)
    return model.eval(), {**metadata, "image_shape": list(shape)}


def from_pretrained(
    path: str | Path,
    *,
    features_only: bool = False,
    output_stride: int | None = None,
    space: Space | None = None,
    image_size: int | None = None,
    dynamic_image_size: bool = False,
) -> nn.Module:
    """Return the network of a file, or of the folder of a run or a retraining, in evaluation mode.

    features_only: return the network of its feature maps instead, for detection and segmentation; see `features`.
    output_stride: largest reduction of these maps, whose later strides become dilation; see `features`.
    image_size: see `load_subnet`. dynamic_image_size: resample the learned positions of a vision transformer to the square
        images of each batch (timm's `dynamic_img_size`); other networks take images of any size anyway.

    Raises:
        InputError: see `load_subnet` and `features`; an output stride of a network that is to give classes.
    """
    if output_stride is not None and not features_only:
        raise InputError(f"[export] expected features_only=True for an output stride, got {output_stride} without it")
    path = Path(path)
    model, metadata = load_subnet(path / "subnet.safetensors" if path.is_dir() else path, space, image_size)
    if dynamic_image_size:
        follow_image_size(model)
    if not features_only:
        return model
    try:
        return features(model, metadata["image_shape"], output_stride=output_stride)
    except InputError as error:
        raise InputError(f"{error}; the network is {metadata['architecture']} of {metadata['space']}") from None
