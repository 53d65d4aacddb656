"""Train a small residual network as a teacher where the user has none; save and load it."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pynas.data import ImageData, Loader
from pynas.errors import InputError
from pynas.nn.batch_norm import batch_norm_act, conv_bn
from pynas.teachers.teacher import Teacher
from pynas.tensor_files import read_tensors, write_tensors

_KIND = "pynas.teacher"


def small(num_classes: int, blocks: Sequence[Sequence[int]], stem: Sequence[int] = (16, 1)) -> nn.Sequential:
    """Return a small residual network: a stem, blocks and a linear classifier.

    blocks: (channels, stride) or (channels, stride, layers) of each block; block b is the submodule `blocks.b`, whose
        layers are ResNet's basic blocks, the first of them with the stride.
    stem: (channels, stride) of a convolution.
    """
    for numbers in (stem, *blocks):
        if len(numbers) not in (2, 3) or any(not isinstance(n, int) or n < 1 for n in numbers):
            raise InputError(f"[teacher] expected (channels, stride[, layers]), each at least 1, got {numbers}")
    layers, channels = [], stem[0]
    for width, stride, *depth in blocks:
        layers.append(_basic_blocks(channels, width, stride, *depth))
        channels = width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    parts = {"stem": conv_bn(3, stem[0], 3, stem[1], activation="relu"), "blocks": nn.Sequential(*layers), "head": head}
    return nn.Sequential(OrderedDict(parts))


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions (He et al., CVPR 2016); a 1x1 convolution where the width or the size changes."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        changes = stride != 1 or in_channels != channels
        # First, so that its weights come first from a seed.
        downsample = conv_bn(in_channels, channels, 1, stride, activation=None) if changes else None
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        y = self.conv2(batch_norm_act(self.bn1, self.conv1(x), self.act1))
        return batch_norm_act(self.bn2, y, self.act2, x if self.downsample is None else self.downsample(x))


def _basic_blocks(channels: int, width: int, stride: int, depth: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(channels, width, stride), *(BasicBlock(width, width) for _ in range(depth - 1)))


def small_like(
    block_shapes: Sequence[Sequence[int]], image_shape: Sequence[int]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Arguments `blocks` and `stem` of `small` that give blocks with these output shapes (C, H, W)."""
    # The stem has stride 2 where the first block would otherwise need a stride of 3 or more.
    stem = (16, 2 if image_shape[1] >= 3 * block_shapes[0][1] else 1)
    sides = [-(-image_shape[1] // stem[1]), *(shape[1] for shape in block_shapes)]
    strides = [max(1, round(before / after)) for before, after in itertools.pairwise(sides)]
    return [(shape[0], stride) for shape, stride in zip(block_shapes, strides, strict=True)], stem


def fit_small(
    data: ImageData,
    blocks: Sequence[Sequence[int]],
    stem: Sequence[int] = (16, 1),
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 0.005,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> Teacher:
    """Train a `small` network on `data.train` by `train_classifier`, and return it as a teacher with a tap at each block.

    The teacher's `metadata` holds these arguments and `test_accuracy`, the top-1 accuracy on `data.test` in [0, 1]. On
    the CPU, the weights depend on the seed alone.

    progress: called after each epoch with (epochs done, epochs, mean training loss).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = small(data.num_classes, blocks, stem)
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    test_accuracy = train_classifier(module, data, **options, device=device, progress=progress)
    metadata = {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "num_classes": data.num_classes,
        "blocks": [list(block) for block in blocks],
        "stem": list(stem),
        **options,
        "test_accuracy": test_accuracy,
    }
    return Teacher(module, _small_taps(blocks), metadata=metadata)


def train_classifier(
    module: nn.Module,
    data: ImageData,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 0.005,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> float:
    """Train a classifier on `data.train`, and return its top-1 accuracy on `data.test`, in [0, 1].

    The optimiser is AdamW with weight decay 0.05 and torch's one-cycle schedule, the loss the cross-entropy with label
    smoothing 0.1. The module stays on `device`, in evaluation mode.

    progress: called after each epoch with (epochs done, epochs, mean training loss).
    """
    if epochs < 1:
        raise InputError(f"[teacher] expected at least one epoch, got {epochs}")
    module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loader = data.loader("train", min(batch_size, len(data.train)), "standard", seed=seed, device=device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        loss = _epoch(module, loader, optimizer, schedule)
        if progress is not None:
            progress(epoch + 1, epochs, loss)
    # As a loaded one: other orders in memory round otherwise.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return accuracy(module.eval(), data, device=device)


def _epoch(module: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer, schedule: Any) -> float:
    """Train for one epoch, and return the mean loss."""
    losses = []
    for images, labels in loader:
        loss = nn.functional.cross_entropy(
            module(images.contiguous(memory_format=torch.channels_last)), labels, label_smoothing=0.1
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def _small_taps(blocks: Sequence[Any]) -> list[str]:
    return [f"blocks.{b}" for b in range(len(blocks))]


@torch.no_grad()
def accuracy(
    model: Callable[[Tensor], Tensor], data: ImageData, part: str = "test", device: str | torch.device = "cpu"
) -> float:
    """Top-1 accuracy of a model in its current mode on a part of the data, in [0, 1]."""
    batches = data.loader(part, 256, shuffle=False, device=device)
    hits = [(model(images).argmax(1) == labels).sum() for images, labels in batches]
    return torch.stack(hits).sum().item() / len(getattr(data, part))


def save_small(path: str | Path, teacher: Teacher) -> None:
    """Write a teacher of `fit_small`: its weights with a digest, and its metadata, atomically."""
    write_tensors(path, _KIND, teacher.module.state_dict(), **teacher.metadata)


def load_small(path: str | Path, norm: str = "running") -> Teacher:
    """Read a teacher that `save_small` wrote.

    Raises:
        InputError: a file that is missing, damaged, of another kind or version.
    """
    file = read_tensors(path, _KIND)
    metadata = dict(file.metadata)
    module = small(metadata["num_classes"], metadata["blocks"], metadata["stem"])
    module.load_state_dict(dict(file.tensors))
    return Teacher(module, _small_taps(metadata["blocks"]), norm, metadata)
