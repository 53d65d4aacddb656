"""Feature maps of a found network, as timm's `features_only` models give them: for detection and segmentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.supernets.shapes import output_shape


def features(
    model: nn.Module, image_shape: Sequence[int] = (3, 224, 224), out_indices: Sequence[int] | None = None
) -> nn.Module:
    """A model of its own that gives the last feature map of every resolution, `[B, C_i, H / r_i, W / r_i]`, as a list.

    model: as `subnet` gives it, a sequence of stem, blocks and head. out_indices: which maps, all when None. Like timm's,
    the result has `.feature_info` with `.channels()` and `.reduction()`.

    Raises:
        InputError: a network that is no sequence, or whose layers put out no maps.
    """
    from timm.models import FeatureListNet

    found = feature_info(model, image_shape)
    chosen = range(len(found)) if out_indices is None else [range(len(found))[index] for index in out_indices]
    own = copy.deepcopy(model)
    own.feature_info = found  # type: ignore[assignment]
    return FeatureListNet(own, out_indices=tuple(chosen), flatten_sequential=True).train(model.training)


def feature_info(model: nn.Module, image_shape: Sequence[int]) -> list[dict[str, Any]]:
    """timm's description of the last map of every resolution: `num_chs`, `reduction`, `module`.

    Raises:
        InputError: a network that is no sequence, or whose layers put out no maps.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(f"[features] expected an nn.Sequential of stem, blocks and head, got {type(model).__name__}")
    shape, by_reduction = tuple(image_shape), {}
    for name, child in model.named_children():
        if name == "head":  # what pools and classifies
            break
        for inner, part in child.named_children() if isinstance(child, nn.Sequential) else [("", child)]:
            shape = output_shape(part, shape)
            if len(shape) != 3:
                break
            reduction = image_shape[1] // shape[1]
            # A later layer of the same resolution takes the place of the one before it.
            by_reduction[reduction] = {
                "num_chs": shape[0],
                "reduction": reduction,
                "module": f"{name}.{inner}" if inner else name,
            }
    if not by_reduction:
        raise InputError(f"[features] expected layers that put out maps [C, H, W], got the shape {list(shape)}")
    return [by_reduction[reduction] for reduction in sorted(by_reduction)]
