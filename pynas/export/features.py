"""Feature maps of a network for detection and segmentation, in the form of timm's `features_only` models."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.export.dilation import dilated
from pynas.export.image_size import follow_image_size
from pynas.supernets.shapes import output_shape


class TokenMaps(nn.Module):
    """Feature maps of a vision transformer: tokens of its layers, without class tokens, as maps.

    net: gives a list of tokens `[B, N, C]` and has timm's `feature_info`.
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net, self.feature_info = net, net.feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: [B, 3, S, S] -> maps [B, C, S / patch, S / patch]."""
        maps = []
        for tokens in self.net(images):
            side = math.isqrt(tokens.shape[1])
            maps.append(tokens[:, tokens.shape[1] - side * side :].mT.unflatten(2, (side, side)))
        return maps


def features(
    model: nn.Module,
    image_shape: Sequence[int] = (3, 224, 224),
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
) -> nn.Module:
    """Return a copy of a network that gives a list of feature maps: by default the last one of every resolution.

    The copy has timm's `.feature_info` with `.channels()` and `.reduction()`; map i is `[B, C_i, H / r_i, W / r_i]`. It takes
    square images of any size that its strides and patches divide: learned positions are resampled, and the resizing at the
    entry of a BigNAS network is left out, since maps are those of the images given.

    model: a network of `subnet`, an nn.Sequential of stem, blocks and head.
    image_shape: (3, H, W) of images to find the maps with.
    out_indices: indices of the maps to give, in the order of `feature_info`: every layer of a vision transformer, else the
        last map of every resolution.
    output_stride: largest reduction of the maps, as timm's: later strides become dilation, see `pynas.export.dilation`. The
        maps stay as many, those of the larger reductions now with this one. None leaves the strides.

    Raises:
        InputError: a network that is no nn.Sequential, whose layers put out no maps or enlarge them, or an index out of range;
            with an output stride, a vision transformer, layers that cannot be dilated, or a stride that it cannot have.
    """
    from timm.models import FeatureListNet

    copied = _entered(copy_module(model, plain=True))
    follow_image_size(copied)
    described, tokens = _described(copied, image_shape)
    if out_indices is None:
        indices = sorted({entry["reduction"]: index for index, entry in enumerate(described)}.values())
    elif all(-len(described) <= index < len(described) for index in out_indices) and len(out_indices):
        indices = sorted({index % len(described) for index in out_indices})
    else:
        raise InputError(f"[features] expected indices from 0 to {len(described) - 1}, got {list(out_indices)}")
    if output_stride is not None:
        if tokens:
            raise InputError(f"[features] expected a network of convolutions for an output stride, got a vision transformer, whose "
                             f"layers have one token per {described[0]['reduction']} pixels: leave output_stride out")  # fmt: skip
        dilated(copied, max(entry["reduction"] for entry in described), output_stride)
        described = [{**entry, "reduction": min(entry["reduction"], output_stride)} for entry in described]
    copied.feature_info = described  # type: ignore[assignment]
    net = FeatureListNet(copied, out_indices=tuple(indices), flatten_sequential=True).train(model.training)
    return TokenMaps(net) if tokens else net


def feature_info(model: nn.Module, image_shape: Sequence[int]) -> list[dict[str, Any]]:
    """Describe the maps of `features` as timm does: `num_chs`, `reduction` (the product of the strides), `module`.

    These are the last maps of every resolution, or the layers of a vision transformer.

    Raises:
        InputError: a network that is no nn.Sequential, or whose layers put out no maps or enlarge them.
    """
    copied = _entered(copy_module(model, plain=True))
    follow_image_size(copied)
    return _described(copied, image_shape)[0]


def _entered(model: nn.Module) -> nn.Sequential:
    """Network without the part that resizes its images."""
    if not isinstance(model, nn.Sequential):
        raise InputError(f"[features] expected an nn.Sequential of stem, blocks and head, got {type(model).__name__}")
    return nn.Sequential(OrderedDict((name, part) for name, part in model.named_children() if name != "resize"))


def _described(model: nn.Module, image_shape: Sequence[int]) -> tuple[list[dict[str, Any]], bool]:
    """Entries of `feature_info`, and whether they are layers of tokens."""
    shape, reduction, weights = tuple(image_shape), 1, 0
    layers: list[dict[str, Any]] = []
    maps: dict[int, dict[str, Any]] = {}
    for name, part in _parts(model):
        before, shape = shape, output_shape(part, shape)
        # A part before the first weights changes the image; it makes no features.
        weights += len(list(part.parameters()))
        tokens = len(shape) == 2
        if len(before) == 3 and len(shape) in (2, 3):
            reduction *= _stride(before[1], math.isqrt(shape[0]) if tokens else shape[1])
        channels = shape[-1] if tokens else shape[0]
        entry = {"num_chs": channels, "reduction": reduction, "module": name}
        if tokens and len(before) == 2:
            layers.append(entry)
        elif len(shape) == 3 and weights:
            # A later part of the same resolution replaces the one before it.
            maps[reduction] = entry
    if not layers and not maps:
        raise InputError(f"[features] expected layers that put out maps [C, H, W], got the shape {list(shape)}")
    return layers or list(maps.values()), bool(layers)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts of a network one after the other, with their names, without the head."""
    for name, child in model.named_children():
        if name == "head":  # pooling and classifier
            return
        for inner, part in child.named_children() if isinstance(child, nn.Sequential) else [("", child)]:
            yield (f"{name}.{inner}" if inner else name), part


def _stride(before: int, after: int) -> int:
    """Stride of a part by the sides of its input and its output.

    Raises:
        InputError: a part that enlarges a map.
    """
    if round(after / before) > 1:
        raise InputError(
            f"[features] expected maps that do not grow from layer to layer, got the sides {before} and {after}"
        )
    return round(before / after)
