"""Teachers by name: of timm, torchvision and transformers; or from any module."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.teachers.pretrained import loaded, timm_teacher, warn_of_untrained
from pynas.teachers.taps import default_taps
from pynas.teachers.teacher import Teacher

# Side of the images that taps are found with where a model does not name one.
_SIDE = 224


def as_teacher(teacher: Teacher | nn.Module | str, taps: Sequence[str] | None = None) -> Teacher:
    """Return a teacher from a teacher, a name as `named_teacher` takes it, or any module with the names of its taps.

    Raises:
        InputError: a module without taps; see `named_teacher`.
    """
    if isinstance(teacher, str):
        return named_teacher(teacher, taps=taps)
    if isinstance(teacher, Teacher):
        return teacher if taps is None else Teacher(teacher.module, taps, teacher.norm, teacher.metadata)
    if taps is None:
        names = [name for name, _ in teacher.named_children()]
        raise InputError(
            f"[teacher] expected taps, one submodule name per block, got none; name some, as of {', '.join(names)}"
        )
    return Teacher(teacher, taps)


def named_teacher(name: str, pretrained: bool = True, taps: Sequence[str] | None = None) -> Teacher:
    """Return the teacher of a name: "torchvision:NAME[:WEIGHTS]", "hf:FOLDER_OR_NAME", else a name of timm.

    Raises:
        InputError: see `torchvision_teacher`, `hf_teacher` and `timm_teacher`.
    """
    library, _, rest = name.partition(":")
    if library == "torchvision":
        model, _, weights = rest.partition(":")
        return torchvision_teacher(model, weights or "DEFAULT", pretrained, taps)
    if library == "hf":
        return hf_teacher(rest, pretrained, taps)
    return timm_teacher(name, pretrained, taps=taps)


def torchvision_teacher(
    name: str, weights: str = "DEFAULT", pretrained: bool = True, taps: Sequence[str] | None = None
) -> Teacher:
    """Return a classifier of torchvision as a teacher; `metadata` holds `mean` and `std` of the images that its weights expect.

    weights: a name of its weights, as IMAGENET1K_V2. pretrained: load them; else warn, and leave the fresh ones.
    taps: None for the last module of each resolution; see `with_fitting_taps`.

    Raises:
        InputError: an unknown name, weights that it does not have or that cannot be loaded.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5)
        raise InputError(
            f"[teacher] expected a classifier of torchvision, got {name!r}; near: {', '.join(near) or 'none'}"
        )
    offered = models.get_model_weights(name)
    if weights not in offered.__members__:
        raise InputError(
            f"[teacher] expected weights of torchvision's {name}, of {', '.join(offered.__members__)}, got {weights!r}"
        )
    chosen, metadata = (
        offered[weights],
        {"torchvision": name, "weights": offered[weights].name, "pretrained": pretrained},
    )
    if pretrained:
        # First by the reader that executes nothing; the second reading is torchvision's own.
        loaded(name, pretrained, lambda: chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
        expected = chosen.transforms()
        metadata |= {"mean": list(expected.mean), "std": list(expected.std)}
    else:
        warn_of_untrained(name)
    module = loaded(name, pretrained, lambda: models.get_model(name, weights=chosen if pretrained else None))
    return _tapped(module.eval(), taps, _SIDE, metadata)


def hf_teacher(name: str, pretrained: bool = True, taps: Sequence[str] | None = None) -> Teacher:
    """Return a classifier of transformers as a teacher: of the hub of Hugging Face by its name, or of a folder.

    `metadata` holds the `mean` and `std` of its image processor, where it has one. pretrained: load its weights; else warn, and
    draw fresh ones. taps: None for the last module of each resolution; see `with_fitting_taps`.

    Raises:
        InputError: transformers is not installed, or no such classifier of images.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError:
        raise InputError('[teacher] expected transformers for an hf: teacher, got none; pip install ".[hf]"') from None
    classes: Any = AutoModelForImageClassification

    def build() -> Any:
        return classes.from_pretrained(name) if pretrained else classes.from_config(AutoConfig.from_pretrained(name))

    if not pretrained:
        warn_of_untrained(name)
    module = loaded(name, pretrained, build)
    metadata = {"hf": name, "pretrained": pretrained, **(_normalisation(name) if pretrained else {})}
    return _tapped(module.eval(), taps, getattr(module.config, "image_size", None) or _SIDE, metadata)


def _normalisation(name: str) -> dict[str, list[float]]:
    """Mean and deviation of the image processor of a model of transformers; empty where it has none."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name)
    except Exception:  # a folder without one; errors differ between versions
        return {}
    if not getattr(processor, "do_normalize", True):
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    return {key: list(getattr(processor, f"image_{key}")) for key in ("mean", "std")}


def _tapped(
    module: nn.Module, taps: Sequence[str] | None, side: int | Sequence[int], metadata: dict[str, Any]
) -> Teacher:
    side = side if isinstance(side, int) else side[0]
    return Teacher(module, default_taps(module, (3, side, side)) if taps is None else taps, metadata=metadata)
