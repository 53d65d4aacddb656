"""Teachers by name (timm), or from whatever the user has."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.teachers.teacher import Teacher


def as_teacher(teacher: Teacher | nn.Module | str, taps: Sequence[str] | None = None) -> Teacher:
    """A teacher from a teacher, a timm name, or any module with its tap names.

    Raises:
        InputError: a module without taps.
    """
    if isinstance(teacher, str):
        return timm_teacher(teacher, taps=taps)
    if isinstance(teacher, Teacher):
        return teacher if taps is None else Teacher(teacher.module, taps, teacher.norm, teacher.metadata)
    if taps is None:
        names = [name for name, _ in teacher.named_children()]
        raise InputError(f"[teacher] expected taps, one submodule name per block, got none; say, of {', '.join(names)}")
    return Teacher(teacher, taps)


def timm_teacher(
    name: str,
    pretrained: bool = True,
    num_classes: int | None = None,
    taps: Sequence[str] | None = None,
    norm: str = "running",
) -> Teacher:
    """A timm model by name. Without `taps`: the six blocks of an EfficientNet (as DNA cuts it), else timm's own stages.

    Where weights are pretrained, `metadata` holds the mean and std that they expect of the images; a `num_classes` other
    than theirs gives a new, untrained classifier, whose logits teach nothing.

    Raises:
        InputError: an unknown name, weights that cannot be loaded, or no known stages.
    """
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        raise InputError(f"[teacher] expected a timm model, got {name!r}; near: {', '.join(near) or 'none'}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    try:
        module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub raises another family of errors in each version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"[teacher] expected to load {name!r} with pretrained={pretrained}, got {reason}; pretrained weights come "
            "from the model hub: without a network, put them into its cache, or use pretrained=False"
        ) from None
    metadata: dict[str, Any] = {"timm": name, "pretrained": pretrained, "num_classes": num_classes}
    if pretrained:
        expected = timm.data.resolve_model_data_config(module)
        metadata |= {"mean": list(expected["mean"]), "std": list(expected["std"])}
    return Teacher(module, _default_taps(name, module) if taps is None else taps, norm, metadata)


def _default_taps(name: str, module: nn.Module) -> list[str]:
    """An EfficientNet's stages 1..6: 48, 80, 160, 224, 384, 640 channels in B7, at strides 4, 8, 16, 16, 32, 32."""
    from timm.models.efficientnet import EfficientNet

    if isinstance(module, EfficientNet) and "efficientnet_b" in name and len(module.blocks) == 7:
        return [f"blocks.{stage}" for stage in range(1, 7)]
    stages = [stage.get("module") for stage in getattr(module, "feature_info", [])]
    if not stages or None in stages:
        raise InputError(f"[teacher] expected taps for {name!r}, whose stages timm does not name, got none")
    return stages
