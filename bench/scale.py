"""What a whole ImageNet run takes on several devices, on paper, from the parts of its steps measured on one.

    python -m bench.scale [--space mbconv-dna] [--teacher tf_efficientnet_b7.ra_in1k] [--batch 64] [--devices 1 8 64] [--json FILE]

Measured: the teacher's forward pass, forward and backward of a random path of every cell of each block (`DNA.train_block`),
the head's, the rating of part of each cell's tree, scaled to all of its paths, and the decoding and cropping of JPEGs of 500x375
pixels to 224 on one core. Computed: hours of the training and of the rating for each number of devices, spread over data and over
blocks, with ring all-reduces of the gradients at --bandwidth, beside --cores that load the images of each device (0: the device
loads them itself, before each step). Not in it: reading from disk or network, start-up, and what a device waits for others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import pynas
from bench._command import command_line, device, run
from bench._timer import machine
from bench.loading import core_seconds
from pynas.methods import DNA
from pynas.rating import rate
from pynas.train.team import block_groups

TRAIN_IMAGES, VAL_IMAGES = 1_231_167, 50_000  # ImageNet's training images less 50,000 of them to rate on


@dataclass(frozen=True)
class Parts:
    """Seconds per image on one device, and what a step exchanges."""

    teacher: float
    blocks: list[float]  # the stem with the first, the head with the last
    rating: list[float]  # of all paths of each block, without the teacher
    gradient_bytes: list[float]  # of what a step trains in each block, on average
    loading: float  # of a core: decoded, cropped and flipped
    val_loading: float  # of a core: decoded and cropped


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    device = torch.device(options.device)
    net = pynas.supernet(options.space, 1000)
    side = options.image_size or net.space.image_size
    teacher = pynas.teachers.timm_teacher(options.teacher, pretrained=False)
    method = DNA(net, teacher, image_shape=(3, side, side)).to(device, memory_format=torch.channels_last)
    parts = measure(method, side, options)
    rows = [row for n in options.devices for row in estimates(parts, n, options)]
    content = {"machine": machine(options.device), "space": options.space, "teacher": options.teacher, "image_size": side,
               "batch": options.batch, "bandwidth": options.bandwidth, "cores": options.cores,
               **asdict(parts), "estimates": rows}  # fmt: skip
    if options.json is not None:
        with options.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
    print(table(parts, rows))


def arguments() -> argparse.Namespace:
    """Sizes, all of them."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--space", default="mbconv-dna")
    parser.add_argument("--teacher", default="tf_efficientnet_b7.ra_in1k")
    parser.add_argument("--image-size", type=int, help="default: the space's")
    parser.add_argument("--batch", type=int, default=64, help="images of a measured step")
    parser.add_argument("--rating-batch", type=int, default=16, help="images of a measured rating")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--step-images", type=int, default=256, help="images of a device's share of a step")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument(
        "--cores", type=int, help="cores that load images for a device; default: 12 for a GPU, 0 for a CPU"
    )
    parser.add_argument("--bandwidth", type=float, default=50e9, help="bytes a second of an all-reduce's links")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="append what was measured to this file")
    options = parser.parse_args()
    if options.cores is None:
        options.cores = 12 if options.device.startswith("cuda") else 0
    return options


def measure(method: DNA, side: int, options: argparse.Namespace) -> Parts:
    """Medians over the repeats; every repeat draws other paths."""
    device, space = method.device, method.net.space
    images = torch.randn(options.batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    method.train()
    features, logits = method.targets(images)
    rng, blocks, sizes = np.random.default_rng(0), [], []
    for b in range(len(space)):
        x, target = images if b == 0 else features[b - 1], features[b]

        def step(b: int = b, x: torch.Tensor = x, target: torch.Tensor = target) -> None:
            method.zero_grad(set_to_none=True)
            method.train_block(b, x, target, rng)
            if b == len(space) - 1 and method.net.head is not None:
                method.train_head(features[-1], logits, labels, rng)

        times, moved = [], []
        for _ in range(options.repeats):
            times.append(timed(step, device))
            moved.append(sum(p.grad.numel() * p.grad.element_size() for p in method.parameters() if p.grad is not None))
        blocks.append(statistics.median(times) / len(images))
        sizes.append(statistics.mean(moved))
    teacher = statistics.median(timed(lambda: method.targets(images), device) for _ in range(options.repeats))
    few = options.rating_batch
    rating = [
        rating_seconds(method, b, (images if b == 0 else features[b - 1])[:few], features[b][:few]) / few
        for b in range(len(space))
    ]
    loading, val_loading = core_seconds("standard"), core_seconds("none")
    return Parts(teacher / len(images), blocks, rating, sizes, loading, val_loading)


def rating_seconds(method: DNA, block: int, x: torch.Tensor, target: torch.Tensor) -> float:
    """One rating of all cells of a block: two subtrees of each cell's first layer with a choice, scaled to all."""
    total = 0.0
    if block == 0:
        with torch.no_grad():
            x = method.net.enter(x)
    for c in range(len(method.net.space.blocks[block])):
        layers = [list(layer) for layer in method.net.layers(block, c)]
        first = next((i for i, layer in enumerate(layers) if len(layer) > 2), 0)
        scale = len(layers[first]) / 2 if len(layers[first]) > 2 else 1.0
        layers[first] = layers[first][:: max(1, len(layers[first]) // 2)][:2] if scale > 1 else layers[first]
        total += scale * timed(lambda layers=layers: rate(layers, [(x, target)]), method.device)  # type: ignore[misc]
    return total


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def estimates(parts: Parts, devices: int, options: argparse.Namespace) -> list[dict[str, float | int | str]]:
    """For one number of devices, a row for each spread (see `pynas.train.Team`)."""

    def with_loading(busy: float, core: float) -> float:
        """Seconds of an image, on a device and on a core."""
        return max(busy, core / options.cores) if options.cores else busy + core

    rows: list[dict[str, float | int | str]] = []
    blocks = len(parts.blocks)
    # Every process reads the images and runs the teacher once per block; the paths are shared.
    rating = with_loading(blocks * parts.teacher + sum(parts.rating) / devices, blocks * parts.val_loading)
    for spread in ("data",) if devices == 1 else ("data", "blocks"):
        shares = [range(blocks)] if spread == "data" else block_groups(devices, blocks)
        groups, size = len(shares), devices // len(shares)
        busy = max(parts.teacher + sum(parts.blocks[b] for b in share) for share in shares)
        moved = max(sum(parts.gradient_bytes[b] for b in share) for share in shares)
        exchange = 2 * (size - 1) / size * moved / options.bandwidth
        step = with_loading(options.step_images * busy + exchange, options.step_images * parts.loading)
        steps = TRAIN_IMAGES / (options.step_images * size)
        hours = [options.epochs * steps * step / 3600, VAL_IMAGES * rating / 3600]
        rows.append({
            "devices": devices, "spread": spread, "groups": groups, "step_seconds": step, "exchange_share": exchange / step,
            "images_per_second": options.step_images / step, "training_hours": hours[0], "rating_hours": hours[1],
            "device_hours": devices * sum(hours)})  # fmt: skip
    return rows


def table(parts: Parts, rows: Sequence[dict[str, float | int | str]]) -> str:
    """Two Markdown tables: the measured parts and the estimates."""
    lines = ["| | per image | of all paths, per image | gradients |", "|---|---|---|---|",
             f"| teacher | {1e3 * parts.teacher:.3g} ms | | |"]  # fmt: skip
    for b, (train, rated, moved) in enumerate(zip(parts.blocks, parts.rating, parts.gradient_bytes), 1):
        lines.append(f"| block {b} | {1e3 * train:.3g} ms | {1e3 * rated:.4g} ms | {moved / 1e6:.2f} MB |")
    lines += ["", f"A core loads {1 / parts.loading:,.0f} images a second to train on, {1 / parts.val_loading:,.0f} to rate on.",
              "",
              "| devices | spread | groups | exchange | images/s of a device | training | faster | rating | device-hours |",
              "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    alone = next((row["training_hours"] for row in rows if row["devices"] == 1), float("nan"))
    for row in rows:
        hours, exchange = float(row["training_hours"]), 100 * float(row["exchange_share"])
        lines.append(f"| {row['devices']} | {row['spread']} | {row['groups']} | {exchange:.2f} % "
                     f"| {float(row['images_per_second']):,.1f} | {hours:,.1f} h | {float(alone) / hours:.1f}x "
                     f"| {float(row['rating_hours']):,.2f} h | {float(row['device_hours']):,.0f} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
