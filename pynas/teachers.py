"""Teachers: any module with named feature taps, one per block; timm names; a small one trained on the spot."""

from __future__ import annotations

import difflib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pynas import files
from pynas.data import ImageData
from pynas.errors import InputError

_KIND = "pynas.teacher"
NORMS = ("running", "batch")


class Teacher(nn.Module):
    """A frozen module whose features at the named submodules (taps) supervise the blocks of a supernet.

    taps: names as in `module.named_modules()`, in order, one per block. norm: "running" uses the stored statistics of batch
    norm, "batch" those of each batch (as DNA's released code rates); stored ones never change. made_from: what it is.

    Raises:
        InputError: an unknown or repeated tap, an unknown norm.
    """

    def __init__(
        self, module: nn.Module, taps: Sequence[str], norm: str = "running", made_from: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        names = [name for name, _ in module.named_modules() if name]
        for tap in taps:
            if tap not in names:
                near = difflib.get_close_matches(tap, names, n=5, cutoff=0.3) or names[:5]
                raise InputError(f"[teacher] expected taps among the module's names, got {tap!r}; near: {', '.join(near)}")
        if not taps or len(set(taps)) != len(taps):
            raise InputError(f"[teacher] expected one or more different taps, got {list(taps)}")
        if norm not in NORMS:
            raise InputError(f"[teacher] expected a norm of {', '.join(NORMS)}, got {norm!r}")
        self.module = module.eval().requires_grad_(False)
        self.taps, self.norm, self.made_from = tuple(taps), norm, {} if made_from is None else made_from

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode: a method that holds a teacher may be switched to training."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """The features at the taps; what comes after the last one is not computed.

        Raises:
            InputError: a tap that is not reached, gives no tensor, or is changed in place by what follows.
        """
        features: dict[str, Tensor] = {}
        versions: dict[str, int] = {}

        def keep(tap: str, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise InputError(f"[teacher] expected a tensor at the tap {tap!r}, got {type(output).__name__}")
            features[tap], versions[tap] = output, output._version
            if len(features) == len(self.taps):
                raise _Done

        with self._hooks(keep), self._norm_mode():
            try:
                self.module(images)
            except _Done:
                pass
            else:
                missing = [tap for tap in self.taps if tap not in features]
                raise InputError(f"[teacher] expected every tap to be reached, got nothing at {', '.join(missing)}")
        for tap, version in versions.items():
            if features[tap]._version != version:
                raise InputError(f"[teacher] expected taps that last, got {tap!r}, which is changed in place; tap what follows")
        return [features[tap] for tap in self.taps]

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What the whole module gives."""
        with self._norm_mode():
            return self.module(images)

    def feature_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shape of each feature without the batch, mostly (C, H, W), for images of `image_shape`."""
        return [tuple(feature.shape[1:]) for feature in self(self._blank(image_shape))]

    def require(self, image_shape: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Check that tap b has the spatial size (H, W) of block b's output, and give the feature shapes.

        Raises:
            InputError: another number of taps than blocks, or another spatial size.
        """
        if len(self.taps) != len(sizes):
            raise InputError(f"[teacher] expected one tap per block, {len(sizes)}, got {len(self.taps)}: {', '.join(self.taps)}")
        shapes = self.feature_shapes(image_shape)
        for tap, shape, size in zip(self.taps, shapes, sizes, strict=True):
            if len(shape) != 3 or shape[1:] != tuple(size):
                raise InputError(f"[teacher] expected features of side {size[0]}x{size[1]} at {tap!r}, got the shape {shape}")
        return shapes

    def tail(self, tap: int, image_shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """The part after a tap, as a function from its feature to the module's output; gradients flow through it.

        It runs the module on two blank images, putting the feature in the place of the tap's output: exact for any module
        where all information passes through the tap, at the price of the part before it on two images.

        Raises:
            InputError: information passes by the tap (checked once, on random images).
        """
        name, blank = self.taps[tap], self._blank(image_shape)

        def resume(feature: Tensor) -> Tensor:
            handle = self.module.get_submodule(name).register_forward_hook(lambda *_: feature)
            try:
                with self._norm_mode():
                    return self.module(blank.to(feature))
            finally:
                handle.remove()

        images = torch.rand((4, *image_shape), generator=torch.Generator().manual_seed(0)).to(blank)
        whole, feature = self.logits(images), self(images)[tap]
        try:
            with torch.no_grad():
                same = torch.allclose(resume(feature), whole, rtol=1e-4, atol=1e-5)
        except RuntimeError:  # the shapes of what passes by do not fit
            same = False
        if not same:
            raise InputError(f"[teacher] expected all information to pass through {name!r}, got an output that needs more")
        return resume

    def _blank(self, image_shape: Sequence[int]) -> Tensor:
        like = next(self.module.parameters(), torch.empty(0))
        return torch.zeros((2, *image_shape), dtype=like.dtype, device=like.device)

    @contextmanager
    def _hooks(self, keep: Callable[[str, Any], None]) -> Iterator[None]:
        def hook(tap: str) -> Any:
            return self.module.get_submodule(tap).register_forward_hook(lambda module, inputs, output: keep(tap, output))

        handles = [hook(tap) for tap in self.taps]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _norm_mode(self) -> Iterator[None]:
        """Batch statistics without touching the stored ones: in training, but tracking nothing."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        tracked = [(norm, norm.track_running_stats) for norm in norms if self.norm == "batch"]
        for norm, _ in tracked:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm, track in tracked:
                norm.training, norm.track_running_stats = False, track


class _Done(Exception):
    """All taps are reached."""


def timm_teacher(
    name: str,
    pretrained: bool = True,
    num_classes: int | None = None,
    taps: Sequence[str] | None = None,
    norm: str = "running",
) -> Teacher:
    """A timm model by name. Without `taps`: the six blocks of an EfficientNet (as DNA cuts it), else timm's own stages.

    Raises:
        InputError: an unknown name, weights that cannot be loaded, or no known stages.
    """
    import timm

    if name not in timm.list_models():
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=5)
        if name.split(".")[0] not in near:
            raise InputError(f"[teacher] expected a timm model, got {name!r}; near: {', '.join(near) or 'nothing'}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub raises another family of errors in each version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"[teacher] expected to load {name!r} with pretrained={pretrained}, got {reason}; pretrained weights come from "
            "the model hub: without a network, put them into its cache, or use pretrained=False"
        ) from None
    made_from = {"timm": name, "pretrained": pretrained, "num_classes": num_classes}
    return Teacher(module, _default_taps(name, module) if taps is None else taps, norm, made_from)


def _default_taps(name: str, module: nn.Module) -> list[str]:
    """EfficientNet's stages 1..6 have B7's 48, 80, 160, 224, 384, 640 channels and strides 2, 2, 2, 1, 2, 1 after stem and stage 0."""
    from timm.models.efficientnet import EfficientNet

    if isinstance(module, EfficientNet) and "efficientnet_b" in name and len(module.blocks) == 7:
        return [f"blocks.{stage}" for stage in range(1, 7)]
    stages = [stage.get("module") for stage in getattr(module, "feature_info", [])]
    if not stages or None in stages:
        raise InputError(f"[teacher] expected taps for {name!r}, whose stages timm does not name, got none")
    return stages


def small(num_classes: int, blocks: Sequence[Sequence[int]], stem: tuple[int, int] = (16, 1)) -> nn.Module:
    """A small residual network: stem (channels, stride), then blocks (channels, stride[, layers]), a linear classifier.

    Block b is the submodule `blocks.b`: timm's basic residual blocks, the first of them with the stride.
    """
    from timm.layers import ConvNormAct

    channels = stem[0]
    layers = []
    for width, stride, *depth in blocks:
        layers.append(_basic_blocks(channels, width, stride, *depth))
        channels = width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    parts = {"stem": ConvNormAct(3, stem[0], 3, stride=stem[1]), "blocks": nn.Sequential(*layers), "head": head}
    return nn.Sequential(OrderedDict(parts))


def _basic_blocks(channels: int, width: int, stride: int, depth: int = 1) -> nn.Sequential:
    from timm.models.resnet import BasicBlock, downsample_avg

    shortcut = None
    if stride != 1 or channels != width:
        shortcut = downsample_avg(channels, width, kernel_size=1, stride=stride)
    first = BasicBlock(channels, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1)))


def fit_small(
    data: ImageData,
    blocks: Sequence[Sequence[int]],
    stem: tuple[int, int] = (16, 1),
    *,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 0.005,
    seed: int = 0,
    device: str | torch.device = "cpu",
    norm: str = "running",
    progress: Callable[[int, int, float], None] | None = None,
) -> Teacher:
    """Train a `small` teacher on `data.train` by AdamW under one cycle, with its taps at the blocks.

    progress: called after each epoch with (epochs done, epochs, mean training loss). `made_from` says how it was made and
    its top-1 accuracy on `data.test`, in [0, 1]. The same seed gives the same weights on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = small(data.num_classes, blocks, stem).to(device)
    loader = data.loader("train", min(batch_size, len(data.train)), "standard", seed=seed, device=device)
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * len(loader))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        losses = []
        for images, labels in loader:
            loss = criterion(module(images), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        if progress is not None:
            progress(epoch + 1, epochs, torch.stack(losses).mean().item())
    made_from = dict()
    teacher = Teacher(module, [f"blocks.{b}" for b in range(len(blocks))], norm, made_from)
    made_from["test_accuracy"] = accuracy(teacher.logits, data, device=device)
    return teacher


def accuracy(model: Callable[[Tensor], Tensor], data: ImageData, part: str = "test", device: Any = "cpu") -> float:
    """Top-1 accuracy on a part of the data, in [0, 1]."""
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).sum() for images, labels in data.loader(part, 256, shuffle=False, device=device)]
    return torch.stack(hits).sum().item() / len(getattr(data, part))
