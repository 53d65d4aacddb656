"""A found network in torchvision's DeepLabV3, with dilation in place of its last strides, on scenes of handwritten digits.

    python examples/segmentation.py --output-stride 4                    # a network made here, minutes on one core
    python examples/segmentation.py --network runs/dna --output-stride 16 --side 224

The network gives one map at the output stride (`pynas.export.features`), atrous spatial pyramid pooling the classes of its
positions (DNA family, table 12; Pi-NAS, table 6). The loss is the cross-entropy of every pixel, for the background and ten
digits. Printed are, before and after the training, the mean intersection over union of the classes and the share of pixels
that are right, on the test scenes.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import digit_scenes
import numpy as np
import torch
from digit_scenes import CLASSES, Network, Scenes, Target
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.transforms.v2 import Normalize

from pynas import data, export
from pynas.errors import InputError


class LastMap(nn.Module):
    """The last map of a network at an output stride, for images in [0, 1].

    Raises:
        InputError: an output stride that the network cannot have.
    """

    def __init__(self, network: Network, output_stride: int):
        super().__init__()
        self.normalise = Normalize(list(network.mean), list(network.std))
        try:
            self.body = export.features(network.model, network.image_shape, [-1], output_stride)
        except InputError as error:
            raise InputError(f"{error}; the network is {network.description}") from None
        (self.out_channels,) = self.body.feature_info.channels()

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """images: [B, 3, H, W] -> "out": [B, out_channels, H / output_stride, W / output_stride]."""
        return OrderedDict(out=self.body(self.normalise(images))[-1])


def segmenter(network: Network, output_stride: int, side: int) -> nn.Module:
    """Build torchvision's DeepLabV3 around a network.

    The rates are a sixth, a third and a half of the map's side, about the 6, 12 and 18 of DeepLab's 33 positions.

    Raises:
        InputError: an output stride that the network cannot have.
    """
    backbone = LastMap(network, output_stride)
    rates = [max(1, part * side // (6 * output_stride)) for part in (1, 2, 3)]
    return DeepLabV3(backbone, DeepLabHead(backbone.out_channels, CLASSES, rates))


def train(model: nn.Module, scenes: Scenes, options: argparse.Namespace) -> list[float]:
    """Train by the cross-entropy of every pixel, and return it at every step."""
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    losses = []
    for step in range(options.steps):
        images, targets = scenes.batch(step, options.batch_size)
        logits = model.train()(torch.stack(images))["out"]
        loss = functional.cross_entropy(logits, torch.stack([digit_scenes.class_map(target) for target in targets]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == options.steps:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    return losses


@torch.no_grad()
def measure(model: nn.Module, test: Sequence[tuple[Tensor, Target]]) -> dict[str, float]:
    """Mean intersection over union and accuracy of the pixels of all test scenes, in [0, 1]."""
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for image, target in test:
        counts += confusion(digit_scenes.class_map(target), model.eval()(image[None])["out"][0].argmax(0))
    return {"mean_iou": mean_iou(counts), "pixel_accuracy": counts.diagonal().sum().item() / counts.sum().item()}


def confusion(truth: Tensor, predicted: Tensor, classes: int = CLASSES) -> Tensor:
    """Number of pixels of every true class (rows) that were given every class (columns), `[classes, classes]`."""
    return torch.bincount((classes * truth + predicted).flatten(), minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Mean over the classes that are there or were predicted of the intersection over union, by a confusion matrix."""
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return (both[either > 0] / either[either > 0]).mean().item()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build, measure, train, and measure again."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    digits = data.load("digits", 32, val_fraction=0.0)
    network = digit_scenes.network(options, digits)
    print(f"DeepLabV3 at output stride {options.output_stride} on {network.description}", flush=True)
    model = segmenter(network, options.output_stride, options.side)
    scenes, test = digit_scenes.scenes(options, digits)
    before = measure(model, test)
    losses = train(model, scenes, options)
    after = measure(model, test)
    for name, value in after.items():
        print(f"{name}: {before[name]:.1%} before, {value:.1%} after {options.steps} steps")
    if options.draw is not None:
        with torch.no_grad():
            predicted = model(test[0][0][None])["out"][0].argmax(0)
        labels = torch.arange(1, CLASSES)
        shown = {"labels": labels, "masks": predicted == labels[:, None, None]}
        digit_scenes.draw(options.draw, test[0][0], [test[0][1], shown])
    return {"output_stride": options.output_stride, "network": network.description, "steps": options.steps,
            "losses": losses, "before": before, "after": after, **digit_scenes.version()}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = digit_scenes.parser(__doc__)
    parser.add_argument("--output-stride", type=digit_scenes.positive, default=8, help="pixels per position of the map")
    digit_scenes.start("segmentation", run, parser, words)


if __name__ == "__main__":
    main()
