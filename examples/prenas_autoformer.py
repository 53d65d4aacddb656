"""Preferred against uniform one-shot training at equal steps (PreNAS, figures 4 and 5), on an AutoFormer space.

    python examples/prenas_autoformer.py                                      # digits, minutes
    python examples/prenas_autoformer.py --data cifar10.npz --epochs 30       # 32x32 images, hours on two cores

For each seed the preferred architectures are selected with that seed's fresh weights, without data. Then one supernet per way
of drawing subnets starts from these weights and trains for the same number of steps on the same batches; the accuracy of
every preferred architecture is measured on the test images with the shared weights. A step of fairnas trains as many subnets
as a layer has candidates. What is done is kept in --out and not done again. Printed is a Markdown table: the mean accuracy
over the preferred architectures, mean and standard deviation over seeds, and its difference to the first sampling.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import pynas
from pynas import data, spaces, zero_cost
from pynas.costs import count
from pynas.evaluation import ErrorRate
from pynas.files import write_json
from pynas.methods import PreNAS
from pynas.methods.whole import subnets
from pynas.report import draw_accuracies

SAMPLINGS = tuple(subnets.PREFERRED | subnets.WHOLE)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    images = data.load(options.data, spaces.get(options.space).image_size, limit=options.limit_images)
    found: dict[str, list[dict[str, list[float]]]] = {sampling: [] for sampling in options.samplings}
    for seed in range(options.seeds):
        for sampling in options.samplings:
            found[sampling].append(run(sampling, seed, images, options))
    runs = {name: [(one["params"], one["accuracy"]) for one in some] for name, some in found.items()}
    draw_accuracies(
        options.out / "accuracies", runs, title=f"{options.space}, {Path(options.data).stem}, {options.epochs} epochs"
    )
    print(table(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, cifar10, an .npz file or an image folder")
    parser.add_argument("--limit-images", type=int, help="of the training images")
    parser.add_argument("--space", default="autoformer-mini")
    parser.add_argument("--samplings", nargs="+", choices=SAMPLINGS, default=["balanced", "uniform", "autoformer"])
    parser.add_argument("--interval", type=float, default=50e3, help="of parameters")
    parser.add_argument("--normaliser", default="layer", help="layer or balance")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/prenas_autoformer"))
    return parser.parse_args()


def run(sampling: str, seed: int, images: data.ImageData, options: argparse.Namespace) -> dict[str, list[float]]:
    """Parameters and test accuracy (%) of every preferred architecture after one training."""
    folder = options.out / f"{sampling}-{seed}"
    path = folder / "accuracy.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.manual_seed(seed)
    net = pynas.supernet(options.space, images.num_classes)
    side = net.space.image_size
    scores = zero_cost.saliency(net, zero_cost.random_images(64, side, seed))
    costs = count(net, (3, side, side))
    preferred = zero_cost.select(net.space, scores, costs, interval=options.interval, normaliser=options.normaliser)
    members = [one.architecture for one in preferred.members]
    method = PreNAS(net, members, sampling=sampling, learning_rate=options.learning_rate, warmup_epochs=2)
    loader = images.loader("train", options.batch_size, "standard", seed=seed)
    pynas.fit(method, loader, options.epochs, folder, seed=seed)
    accuracy = 100 * (1 - ErrorRate(net, images.loader("test", 256, "none"), norm="running").many(members))
    result = {"params": [one.costs["params"] for one in preferred.members], "accuracy": accuracy.tolist()}
    write_json(path, result)
    print(f"{sampling}, seed {seed}: {accuracy.mean():.2f} %", flush=True)
    return result


def table(found: dict[str, list[dict[str, list[float]]]]) -> str:
    """Means over the preferred architectures; the difference to the first sampling is taken seed by seed."""
    means = {name: np.array([np.mean(one["accuracy"]) for one in some]) for name, some in found.items()}
    first = next(iter(means.values()))
    lines = ["| sampling | accuracy (%) | difference |", "|---|---|---|"]
    for name, values in means.items():
        apart = values - first
        lines.append(
            f"| {name} | {values.mean():.2f} ± {spread(values):.2f} | {apart.mean():+.2f} ± {spread(apart):.2f} |"
        )
    return "\n".join(lines)


def spread(values: np.ndarray) -> float:
    """Standard deviation over seeds, 0 for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
