"""Scenes of handwritten digits, whose boxes, classes and masks are known, and the networks that detection.py and
segmentation.py put into torchvision's models.

The digits are scikit-learn's (real handwriting), at random places, in random sizes and contrasts on a noisy canvas. Scenes to
train on are made of training digits, scenes to measure on of test digits, which the network has not seen either.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, save_image

import pynas
from pynas import data, export, spaces, teachers
from pynas.errors import InputError
from pynas.files import write_json

# The background and ten digits; digit d has the label d + 1.
CLASSES = 11
Target = dict[str, Tensor]
# Of the digits 0 to 9 in drawings.
COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "purple", "pink", "brown")


class Network(NamedTuple):
    """A network of pynas with the shape (3, H, W) and the normalisation of the images that it was trained on."""

    model: nn.Module
    image_shape: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    description: str


class Scenes:
    """Scenes of 1 to 5 digits that do not overlap; scene `number` is one and the same at every call.

    digits: images uint8 `[N, 3, H, W]`, bright on black, and their classes. side: of the scenes, in pixels.
    """

    def __init__(self, digits: data.images.Arrays, side: int, seed: int):
        self.digits, self.side, self.seed = digits, side, seed

    def scene(self, number: int) -> tuple[Tensor, Target]:
        """Image `[3, side, side]` in [0, 1], and `boxes` `[N, 4]` (x1, y1, x2, y2), `labels` `[N]`, `masks` `[N, side, side]`."""
        rng = np.random.default_rng([self.seed, number])
        level, noise = rng.uniform(0.0, 0.3), rng.uniform(0.02, 0.08)
        canvas = torch.full((self.side, self.side), level)
        boxes, labels, masks = [], [], []
        for _ in range(rng.integers(1, 6)):
            index, size = int(rng.integers(len(self.digits))), int(rng.integers(self.side // 8, 3 * self.side // 8 + 1))
            left, top = rng.integers(0, self.side - size + 1, 2)
            ink = functional.interpolate(
                self.digits.images[index, None, :1].float() / 255, (size, size), mode="bilinear", antialias=True
            )
            alpha = functional.pad(ink[0, 0], (left, self.side - size - left, top, self.side - size - top))
            mask = alpha > 0.3
            box = tight_box(mask)
            contrast = rng.uniform(0.35, 1.0) * (1 - level)
            if any(box_iou(box[None], other[None]) > 0 for other in boxes):
                continue
            canvas = canvas + contrast * alpha
            boxes, labels, masks = [*boxes, box], [*labels, int(self.digits.labels[index]) + 1], [*masks, mask]
        canvas = (canvas + noise * torch.from_numpy(rng.standard_normal(canvas.shape)).float()).clamp(0, 1)
        target = {"boxes": torch.stack(boxes), "labels": torch.tensor(labels), "masks": torch.stack(masks).byte()}
        return canvas.expand(3, -1, -1).contiguous(), target

    def batch(self, number: int, size: int) -> tuple[list[Tensor], list[Target]]:
        """Images and targets of `size` scenes, none of which another batch has."""
        images, targets = zip(*(self.scene(number * size + i) for i in range(size)))
        return list(images), list(targets)


def tight_box(mask: Tensor) -> Tensor:
    """Smallest box (x1, y1, x2, y2) around the pixels of a mask `[H, W]`; its right and lower edges are exclusive."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


def class_map(target: Target) -> Tensor:
    """Label of every pixel, 0 for the background, `[H, W]`."""
    return (target["masks"].long() * target["labels"][:, None, None]).amax(0)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that both examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, help="subnet.safetensors, or the folder of a run or a retraining; by "
                        "default one that the example makes itself")  # fmt: skip
    parser.add_argument("--space", default="mbconv-mini", help="of the network that the example makes")
    parser.add_argument("--pretrain-epochs", type=int, default=3, help="of that network on digits; 0 for fresh weights")
    parser.add_argument("--mean", type=float, nargs=3, help="of the network's images, where its file does not tell it")
    parser.add_argument("--std", type=float, nargs=3, help="of the network's images, where its file does not tell it")
    parser.add_argument("--steps", type=positive, default=200)
    parser.add_argument("--batch-size", type=positive, default=8, help="in scenes")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW; it falls to 0 by a cosine")
    parser.add_argument("--side", type=side, default=128, help="of the scenes, in pixels")
    parser.add_argument("--test-scenes", type=positive, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--draw", type=Path, help="PNG file of a test scene: the truth, and beside it the prediction")
    return parser


def start(
    name: str,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None,
) -> None:
    """Call the example of this name with its options and write its results; bad input gets one line and exit code 2."""
    options = parser.parse_args(words)
    try:
        results = run(options)
        if options.out is not None:
            write_json(options.out, results)
    except InputError as error:
        parser.exit(2, f"{name}: {error}\n")


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def side(text: str) -> int:
    """Read the side of scenes, in which the smallest digits have 4 pixels."""
    if positive(text) < 32:
        raise argparse.ArgumentTypeError(f"expected at least 32 pixels, got {text}")
    return int(text)


def network(options: argparse.Namespace, digits: data.ImageData) -> Network:
    """Network of a file, or one that is made here; it is normalised as in its training.

    Raises:
        InputError: a file that is missing or damaged, or that does not tell its normalisation where no option does.
    """
    if options.network is None:
        return made(options, digits)
    path = options.network / "subnet.safetensors" if options.network.is_dir() else options.network
    model, metadata = export.load_subnet(path)
    mean, std = options.mean or metadata.get("mean"), options.std or metadata.get("std")
    if mean is None or std is None:
        raise InputError(f"[network] expected the mean and the deviation of the images that {path} was trained on, got a file "
                         "that does not tell them: give --mean and --std, or export it again")  # fmt: skip
    return Network(model, metadata["image_shape"], mean, std, f"{metadata['architecture']} of {metadata['space']}")


def made(options: argparse.Namespace, digits: data.ImageData) -> Network:
    """Random architecture, trained on the training digits for some epochs."""
    space = spaces.get(options.space)
    architecture = space.sample(np.random.default_rng(options.seed))
    if space.image_size != digits.image_shape[1]:
        digits = data.load("digits", space.image_size, val_fraction=0.0)
    model = export.standalone(space, architecture, digits.num_classes)
    name = f"{space.format(architecture)} of {space.name}"
    if options.pretrain_epochs < 1:
        return Network(model, digits.image_shape, digits.mean, digits.std, f"{name}, fresh weights")
    accuracy = teachers.train_classifier(model, digits, epochs=options.pretrain_epochs, seed=options.seed)
    how = f"{options.pretrain_epochs} epochs on digits by this example, test accuracy {accuracy:.1%}"
    return Network(model, digits.image_shape, digits.mean, digits.std, f"{name}, {how}")


def scenes(options: argparse.Namespace, digits: data.ImageData) -> tuple[Scenes, list[tuple[Tensor, Target]]]:
    """Scenes of training digits, and the test scenes of test digits."""
    test = Scenes(digits.test, options.side, 1)
    return Scenes(digits.train, options.side, 2 + options.seed), [test.scene(n) for n in range(options.test_scenes)]


def draw(path: Path, image: Tensor, shown: Sequence[Target]) -> None:
    """Write a PNG of one scene once per target, side by side; a target has `labels` and boxes, masks, or both."""
    panels = []
    for target in shown:
        panel, digits = (255 * image).byte(), [int(label) - 1 for label in target["labels"]]
        colours = [COLOURS[digit] for digit in digits]
        if "masks" in target and digits:
            panel = draw_segmentation_masks(panel, target["masks"].bool(), alpha=0.5, colors=colours)
        if "boxes" in target and digits:
            panel = draw_bounding_boxes(panel, target["boxes"], [str(digit) for digit in digits], colours)
        panels.append(panel.float() / 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(panels, 2), path)


def version() -> dict[str, str]:
    """Versions that the results are from."""
    return {"pynas": pynas.__version__, "torch": str(torch.__version__)}
