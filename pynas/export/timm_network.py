"""Found networks as timm's models: `timm.create_model` builds them, with the members that timm's users expect."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pynas.errors import InputError
from pynas.export.distilled import DistilledHead
from pynas.export.features import feature_info, features
from pynas.export.files import SUBNET, fresh_network
from pynas.export.image_size import follow_image_size, resize_positions
from pynas.export.regularise import regularise
from pynas.spaces import SPACES, get
from pynas.supernets.shapes import output_shape
from pynas.tensor_files import read_metadata

NAME = "pynas_subnet"
# Of the networks that `register` has registered, by name; timm reads it here.
default_cfgs: dict[str, dict[str, Any]] = {}
_HEAD = ("head", "classifier")


class TimmNetwork(nn.Module):
    """A found network, its weights under their own names, with the members of timm's classifiers.

    space, architecture: a name of `pynas.spaces.SPACES`, and a string form. phi, distilled: as of `pynas.export.fresh_network`.
    num_classes: 0 leaves out the classifier. img_size: side of the images in pixels. drop_rate, drop_path_rate: dropout before
    the classifier, and stochastic depth of the last residual branches, both in training.

    Raises:
        InputError: a space that is not pynas's own, and options that the network does not have.
    """

    def __init__(
        self,
        space: str | None = None,
        architecture: str | None = None,
        *,
        num_classes: int = 1000,
        img_size: int | Sequence[int] | None = None,
        phi: float | str | None = None,
        distilled: bool = False,
        dynamic_img_size: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        global_pool: str | None = None,
        **others: Any,
    ):
        super().__init__()
        check_space(space)
        if architecture is None or others or in_chans != 3:
            got = "none" if architecture is None else f"in_chans={in_chans}" if in_chans != 3 else ", ".join(others)
            raise InputError("[timm] expected an architecture, images of 3 channels and the options num_classes, img_size, "
                             f"drop_rate, drop_path_rate, dynamic_img_size and features_only, got {got}; leave it out")  # fmt: skip
        known = get(str(space))
        self.img_size = _side(img_size) or known.image_size
        shape = (3, self.img_size, self.img_size)
        net = fresh_network(known, architecture, num_classes or 1, shape, phi=phi, distilled=distilled)
        for name, part in net.named_children():
            self.add_module(name, part)
        if drop_rate or drop_path_rate:
            regularise(self, drop_rate, drop_path_rate)
        if dynamic_img_size:
            follow_image_size(self)
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes or 1, "avg"
        self.head_hidden_size = _first(self.get_classifier()).in_features
        if num_classes == 0 or global_pool not in (None, "avg"):
            self.reset_classifier(num_classes, global_pool)

    def plain(self) -> nn.Sequential:
        """Return the network as `pynas.export` knows it, with this one's parts."""
        return nn.Sequential(OrderedDict(self.named_children()))

    def forward_features(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W] -> what the head takes: a map `[B, C, h, w]`, or tokens `[B, N, C]`."""
        for name, part in self.named_children():
            if name not in _HEAD:
                x = part(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """x: of `forward_features` -> logits `[B, classes]`; pre_logits: the classifier's input `[B, head_hidden_size]`.

        Of a network with a distillation token it is the mean of both classifiers' inputs, as in timm.
        """
        inputs: list[Tensor] = []
        layers = self._classifiers() if pre_logits else []
        handles = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in layers]
        try:
            for name in _HEAD:
                x = self._modules[name](x) if name in self._modules else x  # type: ignore[misc]
        finally:
            for handle in handles:
                handle.remove()
        return sum(inputs[1:], inputs[0]) / len(inputs) if pre_logits else x

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W] -> logits `[B, classes]`; without a classifier its input `[B, head_hidden_size]`."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> Any:
        """Return the last layer, an identity where it was left out; both layers of a network with a distillation token."""
        layers = self._classifiers()
        return tuple(layers) if len(layers) > 1 else layers[0]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one (torch's generator), or with 0 classes by an identity.

        Raises:
            InputError: fewer than no classes, or another pooling than the network's.
        """
        if num_classes < 0 or global_pool not in (None, "avg"):
            raise InputError(
                f"[timm] expected 0 classes or more and the pooling 'avg', got {num_classes} and {global_pool!r}"
            )
        for name, old in zip(self.classifier_names, self._classifiers(), strict=True):
            new: nn.Module = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
            new._forward_pre_hooks.update(old._forward_pre_hooks)  # dropout
            self.set_submodule(name, new.to(next(self.parameters())))
        self.num_classes = num_classes

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Resample learned positions for square images of another side, as timm's vision transformers do."""
        side = _side(img_size)
        if side is not None:
            resize_positions(self, self.img_size, side)
            self.img_size = side

    @property
    def classifier_names(self) -> list[str]:
        """Names of the last layer, or of both of a network with a distillation token."""
        if isinstance(getattr(self, "head", None), DistilledHead):
            return ["head.classifier", "head.distillation"]
        return ["classifier"] if "classifier" in self._modules else ["head.classifier"]

    @cached_property
    def feature_info(self) -> list[dict[str, Any]]:
        """Number of channels, reduction and module of each feature map, as timm has it."""
        return feature_info(self.plain(), (3, self.img_size, self.img_size))

    @cached_property
    def num_features(self) -> int:
        """Channels of `forward_features`."""
        body = OrderedDict((name, part) for name, part in self.named_children() if name not in _HEAD)
        shape = output_shape(nn.Sequential(body), (3, self.img_size, self.img_size))
        return shape[0] if len(shape) == 3 else shape[-1]

    @property
    def fixed_input_size(self) -> bool:
        """Whether positions are learned for images of one size."""
        return any(hasattr(part, "resize_positions") and not part.dynamic for part in self.modules())

    def _classifiers(self) -> list[Any]:
        return [self.get_submodule(name) for name in self.classifier_names]


def build(
    pretrained: bool = False, *, img_size: Any = None, output_stride: int | None = None, **options: Any
) -> nn.Module:
    """Return a found network for `timm.create_model`, whose options these are; see `TimmNetwork`.

    features_only, out_indices, output_stride: as of `pynas.export.features`; maps take images of any size.
    img_size: another side than the trained one; learned positions are resampled.

    Raises:
        InputError: as `TimmNetwork` and `features`.
    """
    from timm.models import build_model_with_cfg
    from timm.models._builder import resolve_pretrained_cfg

    only, variant = options.get("features_only"), options.pop("variant", NAME)
    if (output_stride is not None and not only) or "feature_cls" in options:
        raise InputError(
            "[timm] expected features_only=True for an output_stride, and no feature_cls, got another; leave it out"
        )
    overlay = {name: options.pop(name, None) for name in ("pretrained_cfg", "pretrained_cfg_overlay")}
    if overlay["pretrained_cfg"] is None and variant == NAME:
        check_space(options.get("space"))
        side = _side(img_size) or get(options["space"]).image_size
        overlay["pretrained_cfg"] = {"input_size": (3, side, side), "num_classes": options.get("num_classes", 1000),
                                     "architecture": NAME}  # fmt: skip
    trained = resolve_pretrained_cfg(variant, *overlay.values()).input_size[-1]

    def maps(model: TimmNetwork, out_indices: Sequence[int] | None) -> nn.Module:
        return features(model.plain(), (3, trained, trained), out_indices, output_stride)

    model: Any = build_model_with_cfg(TimmNetwork, variant, pretrained, img_size=trained,
                                      feature_cfg={"out_indices": None, "feature_cls": maps}, **overlay, **options)  # fmt: skip
    if img_size is not None and not only:
        model.set_input_size(img_size)
    return model


def pretrained_cfg(metadata: dict[str, Any], model: TimmNetwork) -> dict[str, Any]:
    """Return timm's description of a network's weights and images; metadata: of `pynas.export.load_subnet`."""
    names, whole = model.classifier_names, metadata.get("crop_pct") == 1
    kept: dict[str, Any] = {name: tuple(metadata[name]) for name in ("mean", "std") if name in metadata}
    return {"architecture": NAME, "input_size": (3, model.img_size, model.img_size), "interpolation": "bilinear",
            "fixed_input_size": model.fixed_input_size, "crop_pct": metadata.get("crop_pct", 0.875),
            "crop_mode": "squash" if whole else "center", **kept, "num_classes": metadata["num_classes"],
            "classifier": names[0] if len(names) == 1 else tuple(names), "first_conv": None}  # fmt: skip


def model_args(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `TimmNetwork` that a network's file tells."""
    return {name: metadata[name] for name in ("space", "architecture", "phi", "distilled") if metadata.get(name)}


def register(path: str | Path, name: str | None = None) -> str:
    """Register a found network with timm; return its name, for `timm.create_model(name, pretrained=True)`.

    It is there until the process ends; a file of timm's hub form (`pynas export --hub`) needs no registration. timm's names have
    no slash, which it takes for a hub's, and no dot, which it takes for the tag of weights.

    path: a file of `save_subnet`, or the folder of a run or a retraining. name: None for `pynas_` and the folder's name.

    Raises:
        InputError: a file that is missing or damaged, a space that is not pynas's own, or a name that timm does not read.
    """
    from timm.models import register_model

    path = Path(path).resolve()
    path = path / "subnet.safetensors" if path.is_dir() else path
    name = "pynas_" + re.sub(r"\W", "_", path.parent.name) if name is None else name
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"[timm] expected a name of letters, digits and underscores, got {name!r}")
    metadata = read_metadata(path, SUBNET)
    side = (metadata.get("image_shape") or [None])[-1]
    model = TimmNetwork(**model_args(metadata), num_classes=metadata["num_classes"], img_size=side)
    default_cfgs[name] = {**pretrained_cfg(metadata, model), "architecture": name, "file": str(path)}

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return build(pretrained, **{**model_args(metadata), "variant": name, **options})

    entry.__name__ = name
    register_model(entry)
    return name


def check_space(name: Any) -> None:
    """Raise InputError unless a space is one of pynas's own, which another process knows by its name."""
    if name not in SPACES:
        raise InputError(f"[timm] expected a network of one of pynas's spaces, got one of {name!r}; write it by --python or "
                         "--torch-export")  # fmt: skip


def _first(classifiers: Any) -> Any:
    return classifiers[0] if isinstance(classifiers, tuple) else classifiers


def _side(img_size: Any) -> int | None:
    """Return the side of square images, in pixels.

    Raises:
        InputError: sides that differ.
    """
    sides = {img_size} if img_size is None or isinstance(img_size, int) else set(img_size)
    if len(sides) != 1:
        raise InputError(f"[timm] expected square images, got img_size={img_size}")
    return sides.pop()
