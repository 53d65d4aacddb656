"""DNA by the teacher's own widths beside a fixed projection: do the scores rank alike, and which ranks trained networks better?

    python -m bench.full_width cifar10.npz --run FOLDER [--seeds 2] [--networks 24]

A residual teacher twice as wide as mbconv-mini's blocks is trained; of each seed a supernet under width=projection and one under
width=teacher, on the same images. The scores of 1,000 drawn architectures are compared with each other, and those of drawn
networks with the accuracies that these reach on the held-out images when trained from scratch. Goes on where it stopped;
FOLDER/results.json holds everything.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

import pynas
from bench._command import command_line, run
from pynas import costs, data, export, teachers
from pynas.files import header, read_json, write_json
from pynas.rating import Scores

WIDTHS, LOSSES, KIND = ("projection", "teacher"), ("relative_l1", "kl"), "pynas.bench.full_width"
SPACE = pynas.spaces.get("mbconv-mini")
DRAWN = 1000


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("images", help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--limit-images", type=int, default=12_500)
    parser.add_argument("--epochs", type=int, default=10, help="of the supernets")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--retrain-epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = data.load(options.images, 32, limit=options.limit_images)
    keys = list(itertools.product(range(options.seeds), WIDTHS))
    rated = {key: scores_of(options, images, *key) for key in keys}
    report(options, rated, accuracies(options, images))


def teacher_of(options: argparse.Namespace, images: data.ImageData) -> teachers.Teacher:
    """Return the teacher, trained unless that is done."""
    path = options.run / "teacher.safetensors"
    if not path.exists():
        shapes = [(2 * width, *side) for width, *side in pynas.supernet(SPACE, 10).block_shapes(images.image_shape)]
        size = teachers.small_like(shapes, images.image_shape)
        teachers.save_small(path, teachers.fit_small(images, *size, epochs=options.teacher_epochs))
    return teachers.load_small(path)


def scores_of(options: argparse.Namespace, images: data.ImageData, seed: int, width: str) -> dict[str, Scores]:
    """Return the scores of a supernet by loss; it is trained and rated unless that is done."""
    folder = options.run / f"{width}_{seed}"
    if not all(Scores.complete(folder / loss, SPACE) for loss in LOSSES):
        torch.manual_seed(seed)
        method = pynas.methods.DNA(pynas.supernet(SPACE, 10), teacher_of(options, images), width=width)
        loader = images.loader("train", 64, "standard", seed=seed)
        pynas.fit(method, loader, options.epochs, folder, seed=seed)
        for loss in LOSSES:
            method.eval().rate(images.loader("val", 250), loss=loss, norm="batch").save(folder / loss)
    return {loss: Scores.load(folder / loss, SPACE) for loss in LOSSES}


def accuracies(options: argparse.Namespace, images: data.ImageData) -> dict[str, float]:
    """Return the accuracies of drawn networks trained from scratch, each written down as it comes."""
    path = options.run / "networks.json"
    done = read_json(path, KIND)["accuracies"] if path.exists() else {}
    rng = np.random.default_rng(7)
    for architecture in [SPACE.sample(rng) for _ in range(options.networks)]:
        name = SPACE.format(architecture)
        if name not in done:
            torch.manual_seed(0)
            model = export.standalone(SPACE, architecture, 10)
            recipe = export.RECIPES["small"]
            model, _ = export.retrain(model, images, recipe, epochs=options.retrain_epochs)
            done[name] = export.evaluate(model, images, "val")["top1"]
            write_json(path, header(KIND) | {"accuracies": done})
    return dict(list(done.items())[: options.networks])


def report(
    options: argparse.Namespace, rated: dict[tuple[int, str], dict[str, Scores]], truth: dict[str, float]
) -> None:
    """Print and write the taus."""
    rng = np.random.default_rng(0)
    drawn, networks = [SPACE.sample(rng) for _ in range(DRAWN)], [SPACE.parse(name) for name in truth]
    counted = costs.count(pynas.supernet(SPACE, 10), (3, 32, 32))
    rows = {name: [float(kendalltau([counted.of(a)[name] for a in networks], list(truth.values())).statistic)]
            for name in ("madds", "params")}  # fmt: skip
    print(f"{len(networks)} networks, {min(truth.values()):.2%} to {max(truth.values()):.2%}; tau to their accuracies")
    for loss, width in itertools.product(LOSSES, WIDTHS):
        rows[f"{loss}, {width}"] = [
            float(kendalltau(-rated[seed, width][loss].total(networks), list(truth.values())).statistic)
            for seed in range(options.seeds)
        ]
    for name, taus in rows.items():
        print(f"  {name:24} " + "  ".join(f"{tau:6.3f}" for tau in taus))
    print(f"tau of the scores of {DRAWN} architectures to each other")
    for loss in LOSSES:
        pairs = list(itertools.combinations(rated, 2))
        for one, other in pairs:
            tau = kendalltau(rated[one][loss].total(drawn), rated[other][loss].total(drawn)).statistic
            rows[f"{loss}: {one} {other}"] = [float(tau)]
            print(f"  {loss:12} {one[1]} {one[0]}, {other[1]} {other[0]}: {tau:6.3f}")
    write_json(options.run / "results.json", header(KIND) | {"accuracies": truth, "taus": rows})


if __name__ == "__main__":
    run(main)
