"""A found network in torchvision's detectors: Faster R-CNN, RetinaNet and Mask R-CNN, on scenes of handwritten digits.

    python examples/detection.py                                         # a network made here, minutes on one core
    python examples/detection.py --network runs/dna --model faster-rcnn-c4
    python examples/detection.py --network runs/pinas/subnet.safetensors --model mask-rcnn --side 224

faster-rcnn, retinanet and mask-rcnn have a feature pyramid on the network's maps (Pi-NAS, table 5); faster-rcnn-c4 has the map
before the last alone, and the network's last stage as the head of every region (C4: DNA family, table 14). The losses are
torchvision's. Printed are the losses and, before and after the training, the mean average precision at an IoU of 0.5 of boxes
and, by mask-rcnn, of masks, over the classes of the test scenes.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import digit_scenes
import numpy as np
import torch
from digit_scenes import CLASSES, Network, Scenes, Target
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from pynas import data, export
from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.export.image_size import follow_image_size

RATIOS = (0.5, 1.0, 2.0)
# Scenes have few objects: fewer proposals than torchvision's 2,000 of COCO.
FEW = {"rpn_pre_nms_top_n_train": 400, "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_train": 200,
       "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 64}  # fmt: skip


class Pyramid(nn.Module):
    """A feature pyramid on the last maps of a network; every map gets `out_channels` channels.

    most: number of maps to take. extra: torchvision's block that adds coarser maps.

    Raises:
        InputError: a network whose maps have one resolution.
    """

    def __init__(self, network: Network, most: int, out_channels: int, extra: Any):
        super().__init__()
        described = export.feature_info(network.model, network.image_shape)
        coarse = {entry["reduction"]: index for index, entry in enumerate(described) if entry["reduction"] > 1}
        if len(coarse) < 2:
            raise InputError(f"[detection] expected a network with maps of several resolutions for a feature pyramid, got "
                             f"{network.description} with stride {', '.join(map(str, coarse)) or 1} alone")  # fmt: skip
        indices = sorted(coarse.values())[-most:]
        self.body = export.features(network.model, network.image_shape, indices)
        self.reductions = self.body.feature_info.reduction()
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), out_channels, extra)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """images: [B, 3, H, W] -> maps "0", "1", ... [B, out_channels, H / r, W / r] and the coarser ones."""
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(self.body(images))))


class C4(nn.Module):
    """The map before a network's last one (at stride 16 of 32).

    Raises:
        InputError: a network whose maps have one resolution.
    """

    def __init__(self, network: Network):
        super().__init__()
        described = export.feature_info(network.model, network.image_shape)
        last = described[-1]["reduction"]
        before = [index for index, entry in enumerate(described) if entry["reduction"] < last]
        if not before:
            raise InputError(f"[detection] expected a network with a map before the last for C4, got {network.description} with "
                             f"stride {last} alone")  # fmt: skip
        entry = described[before[-1]]
        self.body = export.features(network.model, network.image_shape, before[-1:])
        self.out_channels, self.reduction, self.module = entry["num_chs"], entry["reduction"], entry["module"]

    def forward(self, images: Tensor) -> Tensor:
        """images: [B, 3, H, W] -> [B, out_channels, H / reduction, W / reduction]."""
        return self.body(images)[0]


def behind(model: nn.Module, name: str) -> list[nn.Module]:
    """Copies of the parts of a network behind the one of a name, without the head."""
    parts: list[tuple[str, nn.Module]] = []
    for outer, child in model.named_children():
        if outer == "head":
            break
        inner = child.named_children() if isinstance(child, nn.Sequential) else [("", child)]
        parts += [(f"{outer}.{number}" if number else outer, part) for number, part in inner]
    place = [known for known, _ in parts].index(name)
    return [copy_module(part) for _, part in parts[place + 1 :]]


def detector(kind: str, network: Network, side: int, channels: int) -> nn.Module:
    """Build a detector of torchvision around a network.

    side: of the scenes, in pixels. channels: of the pyramid and of the heads.

    Raises:
        InputError: a network whose maps have one resolution.
    """
    images = {"min_size": side, "max_size": side, "image_mean": list(network.mean), "image_std": list(network.std)}
    if kind == "faster-rcnn-c4":
        return c4_detector(network, images)
    if kind == "retinanet":
        pyramid = Pyramid(network, 3, channels, LastLevelP6P7(channels, channels))
        strides = [*pyramid.reductions, 2 * pyramid.reductions[-1], 4 * pyramid.reductions[-1]]
        sizes = [tuple(round(4 * stride * 2 ** (i / 3)) for i in range(3)) for stride in strides]
        # Group norm as in torchvision's second version: its initial weights fade out in layers of few channels.
        head = RetinaNetHead(channels, len(sizes[0]) * len(RATIOS), CLASSES, norm_layer=partial(nn.GroupNorm, 1))
        return RetinaNet(pyramid, CLASSES, anchor_generator=anchors(sizes), head=head, **images)
    pyramid = Pyramid(network, 4, channels, LastLevelMaxPool())
    names = [str(i) for i in range(len(pyramid.reductions))]
    sizes = [(8 * stride,) for stride in (*pyramid.reductions, 2 * pyramid.reductions[-1])]
    parts: dict[str, Any] = {
        "rpn_anchor_generator": anchors(sizes),
        "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
        "box_head": TwoMLPHead(channels * 7**2, 4 * channels),
        "box_predictor": FastRCNNPredictor(4 * channels, CLASSES),
    }
    if kind == "faster-rcnn":
        return FasterRCNN(pyramid, **parts, **FEW, **images)
    parts |= {
        "mask_roi_pool": MultiScaleRoIAlign(names, 14, 2),
        "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, CLASSES),
    }
    return MaskRCNN(pyramid, **parts, **FEW, **images)


def c4_detector(network: Network, images: dict[str, Any]) -> nn.Module:
    """Faster R-CNN on one map; the region's head is the network's last stage, on 14 x 14 positions."""
    backbone = C4(network)
    head = nn.Sequential(*behind(network.model, backbone.module), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    follow_image_size(head)
    channels = export.feature_info(network.model, network.image_shape)[-1]["num_chs"]
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors([tuple(backbone.reduction * factor for factor in (2, 4, 8, 16))]),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=head,
        box_predictor=FastRCNNPredictor(channels, CLASSES),
        **FEW,
        **images,
    )


def anchors(sizes: Sequence[tuple[int, ...]]) -> AnchorGenerator:
    """Anchors of some sizes in pixels on every map, in three ratios of the sides."""
    return AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes))


def train(model: nn.Module, scenes: Scenes, options: argparse.Namespace) -> list[float]:
    """Train by torchvision's own losses, and return their sum at every step."""
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    losses = []
    for step in range(options.steps):
        terms = model.train()(*scenes.batch(step, options.batch_size))
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == options.steps:
            told = ", ".join(f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in terms.items())
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.3f} ({told})", flush=True)
    return losses


@torch.no_grad()
def detect(model: nn.Module, images: Sequence[Tensor]) -> list[Target]:
    """Boxes, labels, scores and, where the model gives them, masks `[N, H, W]` of each image."""
    found = []
    for image in images:
        (one,) = model.eval()([image])
        if "masks" in one:
            one["masks"] = one["masks"][:, 0] > 0.5
        found.append(one)
    return found


def measure(model: nn.Module, test: Sequence[tuple[Tensor, Target]]) -> dict[str, float]:
    """Mean average precision of boxes, and of masks where the model gives them, in [0, 1]."""
    found, truths = detect(model, [image for image, _ in test]), [target for _, target in test]
    measured = {"box_map50": mean_average_precision(found, truths, lambda a, b: box_iou(a["boxes"], b["boxes"]))}
    if "masks" in found[0]:
        measured["mask_map50"] = mean_average_precision(found, truths, lambda a, b: mask_iou(a["masks"], b["masks"]))
    return measured


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks `[N, H, W]` and `[M, H, W]` -> `[N, M]`; 0 for two empty ones."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1) - both).clamp_min(1)


def mean_average_precision(
    found: Sequence[Target], truths: Sequence[Target], overlap: Callable[[Target, Target], Tensor], least: float = 0.5
) -> float:
    """Mean over the classes of the truth of the average precision, in [0, 1].

    In the order of their scores, each detection takes the object of its class that it overlaps most; it is a hit where the
    IoU is at least `least` and no detection before it took the object (Everingham et al., IJCV 2010, section 4.2).
    """
    precisions = []
    for label in torch.cat([truth["labels"] for truth in truths]).unique():
        scores, hits, count = [], [], 0
        for one, truth in zip(found, truths, strict=True):
            mine, theirs = ({k: v[x["labels"] == label] for k, v in x.items()} for x in (one, truth))
            count += len(theirs["labels"])
            ious, taken = overlap(mine, theirs), set[int]()
            for row in mine["scores"].argsort(descending=True).tolist():
                best = int(ious[row].argmax()) if len(theirs["labels"]) else -1
                hit = best >= 0 and ious[row, best] >= least and best not in taken
                taken |= {best} if hit else set()
                scores.append(float(mine["scores"][row]))
                hits.append(bool(hit))
        precisions.append(average_precision(scores, hits, count))
    return float(np.mean(precisions))


def average_precision(scores: Sequence[float], hits: Sequence[bool], count: int) -> float:
    """Area under the curve of precision over recall, of which precision is the best at that recall or beyond.

    hits: whether each detection is right. count: number of objects.
    """
    right = np.asarray(hits, float)[np.argsort(-np.asarray(scores), kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * right).sum() / count)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build, measure, train, and measure again."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    digits = data.load("digits", 32, val_fraction=0.0)
    network = digit_scenes.network(options, digits)
    print(f"{options.model} on {network.description}", flush=True)
    model = detector(options.model, network, options.side, options.channels)
    scenes, test = digit_scenes.scenes(options, digits)
    before = measure(model, test)
    losses = train(model, scenes, options)
    after = measure(model, test)
    for name, value in after.items():
        print(f"{name}: {before[name]:.1%} before, {value:.1%} after {options.steps} steps")
    if options.draw is not None:
        (found,) = detect(model, [test[0][0]])
        sure = found["scores"] > 0.5
        digit_scenes.draw(options.draw, test[0][0], [test[0][1], {name: value[sure] for name, value in found.items()}])
    return {"model": options.model, "network": network.description, "steps": options.steps, "losses": losses,
            "before": before, "after": after, **digit_scenes.version()}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = digit_scenes.parser(__doc__)
    parser.add_argument(
        "--model", choices=("faster-rcnn", "faster-rcnn-c4", "retinanet", "mask-rcnn"), default="faster-rcnn"
    )
    parser.add_argument(
        "--channels", type=digit_scenes.positive, default=64, help="of the pyramid; torchvision has 256"
    )
    digit_scenes.start("detection", run, parser, words)


if __name__ == "__main__":
    main()
