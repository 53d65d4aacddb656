"""Feature maps of a network for detection and segmentation, in the form of timm's `features_only` models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.supernets.shapes import output_shape


def features(
    model: nn.Module, image_shape: Sequence[int] = (3, 224, 224), out_indices: Sequence[int] | None = None
) -> nn.Module:
    """Return a copy of a network that gives a list of feature maps: the last one of every resolution.

    The copy has timm's `.feature_info` with `.channels()` and `.reduction()`; map i is `[B, C_i, H / r_i, W / r_i]`.

    model: a network of `subnet`, an nn.Sequential of stem, blocks and head.
    out_indices: indices of the maps to give; None for all.

    Raises:
        InputError: a network that is no nn.Sequential, or whose layers put out no maps.
    """
    from timm.models import FeatureListNet

    maps = feature_info(model, image_shape)
    indices = range(len(maps)) if out_indices is None else [range(len(maps))[index] for index in out_indices]
    copied = copy_module(model)
    copied.feature_info = maps  # type: ignore[assignment]
    return FeatureListNet(copied, out_indices=tuple(indices), flatten_sequential=True).train(model.training)


def feature_info(model: nn.Module, image_shape: Sequence[int]) -> list[dict[str, Any]]:
    """Describe the last map of every resolution as timm does: `num_chs`, `reduction`, `module`.

    Raises:
        InputError: a network that is no nn.Sequential, or whose layers put out no maps.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(f"[features] expected an nn.Sequential of stem, blocks and head, got {type(model).__name__}")
    shape, by_reduction = tuple(image_shape), {}
    for name, child in model.named_children():
        if name == "head":  # pooling and classifier
            break
        for inner, part in child.named_children() if isinstance(child, nn.Sequential) else [("", child)]:
            shape = output_shape(part, shape)
            if len(shape) != 3:
                break
            reduction = image_shape[1] // shape[1]
            # A later layer of the same resolution replaces the one before it.
            by_reduction[reduction] = {
                "num_chs": shape[0],
                "reduction": reduction,
                "module": f"{name}.{inner}" if inner else name,
            }
    if not by_reduction:
        raise InputError(f"[features] expected layers that put out maps [C, H, W], got the shape {list(shape)}")
    return [by_reduction[reduction] for reduction in sorted(by_reduction)]
