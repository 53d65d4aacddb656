"""Teachers from timm's models by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pynas.errors import InputError
from pynas.teachers.teacher import Teacher


def timm_teacher(
    name: str,
    pretrained: bool = True,
    num_classes: int | None = None,
    taps: Sequence[str] | None = None,
    norm: str = "running",
) -> Teacher:
    """Return a timm model as a teacher; the name may be hf-hub:USER/NAME or local-dir:FOLDER too.

    pretrained: load trained weights; the teacher's `metadata` then holds the `mean` and `std` of the images they expect. An
        untrained teacher is warned of: its features are those of random weights.
    num_classes: another number than the weights have gives a new, untrained classifier, whose logits teach nothing.
    taps: None for the six stages of an EfficientNet (the blocks of DNA), or timm's stages of another model.
    norm: see `Teacher`.

    Raises:
        InputError: an unknown name, a model without weights, weights that cannot be loaded, or a model whose stages timm does
            not name.
    """
    import timm

    architecture = name.split(".")[0]
    if ":" not in name:
        if not timm.is_model(architecture):
            near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
            raise InputError(f"[teacher] expected a timm model, got {name!r}; near: {', '.join(near) or 'none'}")
        if pretrained:
            _check_weights(name)
    if not pretrained:
        warn_of_untrained(name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    module = loaded(name, pretrained, lambda: timm.create_model(name, pretrained=pretrained, **options))
    metadata: dict[str, Any] = {"timm": name, "pretrained": pretrained, "num_classes": num_classes}
    if pretrained:
        expected = timm.data.resolve_model_data_config(module)
        metadata |= {"mean": list(expected["mean"]), "std": list(expected["std"])}
    return Teacher(module, _default_taps(name, module) if taps is None else taps, norm, metadata)


def warn_of_untrained(name: str) -> None:
    """Warn of a teacher without trained weights."""
    warnings.warn(f"[teacher] {name} is untrained, since pretrained is false: its features are those of random weights, and "
                  "scores against them say nothing of the images' classes", stacklevel=3)  # fmt: skip


def loaded(name: str, pretrained: bool, load: Callable[[], Any]) -> Any:
    """Return what `load()` returns; its failure is an InputError of one line."""
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # the hubs raise different errors in each version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"[teacher] expected to load {name!r} with pretrained={pretrained}, got {reason}; pretrained weights come "
            "from the model hub: without a network, put them into its cache, or train a teacher of your own ('small')"
        ) from None


def _check_weights(name: str) -> None:
    """Raise InputError where timm has no weights under a name, and list names of the family that have."""
    import timm

    architecture, _, tag = name.partition(".")
    own = timm.list_pretrained(f"{architecture}.*")
    known = timm.models.get_pretrained_cfg(architecture)
    # A model that the user registered without a description may load weights of its own.
    if known is None or (name in own if tag else known.has_weights):
        return
    family = own or timm.list_pretrained(f"*{architecture}*")
    if not family:
        module = timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2]
        family = difflib.get_close_matches(architecture, timm.list_models(module=module, pretrained=True), 5, 0.0)
    raise InputError(f"[teacher] expected a timm model with weights, got {name!r}, which has none; of its family have: "
                     f"{', '.join(family[:8]) or 'none'}")  # fmt: skip


def _default_taps(name: str, module: nn.Module) -> list[str]:
    """Stages 1..6 of an EfficientNet (B7: 48, 80, 160, 224, 384, 640 channels at strides 4, 8, 16, 16, 32, 32), else timm's."""
    from timm.models.efficientnet import EfficientNet

    staged = "efficientnet_b" in name
    if staged and isinstance(module, EfficientNet) and len(module.blocks) == 7:
        return [f"blocks.{stage}" for stage in range(1, 7)]
    if not stages(module):
        raise InputError(f"[teacher] expected taps for {name!r}, whose stages timm does not name, got none; give taps")
    return stages(module)


def stages(module: nn.Module) -> list[str]:
    """Names of the stages of a timm model: all of an EfficientNet's, else those that timm describes; none where it does not."""
    from timm.models.efficientnet import EfficientNet

    if isinstance(module, EfficientNet):
        return [f"blocks.{stage}" for stage in range(len(module.blocks))]
    described = [stage.get("module") for stage in getattr(module, "feature_info", [])]
    return [] if None in described else described
