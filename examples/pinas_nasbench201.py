"""Pi-NAS on NAS-Bench-201: do the supernet's errors rank the 729 cells as training from scratch did?

    python examples/pinas_nasbench201.py cifar10.npz --out runs/pinas-nasbench201

For each seed a supernet is trained by Pi-NAS, by its ablations, by SPOS and by FairNAS; those without labels get a linear
classifier. The error of every cell without `none` and `skip_connect`, with batch norm of its own, is set against the published
accuracies: Kendall's tau, beside the trivial baselines, and the accuracy of the cell that each would choose. Writes results.json,
results.md and consistency.png (how alike paths see an image, against tau) into --out; what is done already is not done again.
The published setting is --n 5 --channels 16 32 64 --image-size 32 --ops 5 with all images; the defaults are for one CPU core.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pynas
from pynas import data, methods, spaces, tabular
from pynas.evaluation.consistency import consistency, last_layer_paths, path_similarity
from pynas.evaluation.error_rate import ErrorRate
from pynas.files import read_arrays, write_arrays, write_json, write_text
from pynas.methods import LinearEvaluation, PiNAS
from pynas.report import draw_consistency
from pynas.spaces.nasbench201 import NASBENCH201_OPS

RATED, RESULT = "pynas.example.rated", "pynas.example.pinas"
# What differs from the method's defaults, and the views that its training takes.
METHODS: dict[str, tuple[Any, int]] = {
    "Pi-NAS": (PiNAS, 4),
    "without cross-path": (partial(PiNAS, cross_path=False), 4),
    "without mean teacher": (partial(PiNAS, mean_teacher=False), 4),
    "without negatives": (partial(PiNAS, negatives=False), 4),
    "SPOS": (methods.spos, 1),
    "FairNAS": (methods.fairnas, 1),
}


class Alone(methods.OneShot):
    """SPOS of a space of one cell."""

    def __init__(self, net: Any, cell: pynas.Architecture):
        super().__init__(net)
        self.cell = cell

    def architectures(self, rng: np.random.Generator) -> list[pynas.Architecture]:
        return [self.cell]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    images = subset(data.load(options.images, options.image_size, val_fraction=0.1), options.train, options.val)
    cells = chosen_cells(options.cells)
    rated: dict[str, list[dict[str, np.ndarray]]] = {}
    if options.alone:
        report_alone(options, images, cells)
    for seed, name in itertools.product(range(options.seeds), options.methods):
        rated.setdefault(name, []).append(one(options, images, cells, name, seed))
        report(options, cells, rated)


def arguments() -> argparse.Namespace:
    """Sizes, all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="an .npz with x_train, y_train, x_test, y_test, or cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/pinas-nasbench201"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n", type=int, default=1, help="cells per stage")
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument(
        "--ops", type=int, choices=(3, 5), default=3, help="operations that the supernet is trained with"
    )
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--val", type=int, default=500, help="images that cells are rated on")
    parser.add_argument("--calibration", type=int, default=2, help="batches that batch norm is re-estimated on")
    parser.add_argument("--cells", type=int, default=729, help="cells to rate, drawn at random where fewer than 729")
    parser.add_argument("--alone", type=int, default=0, help="of these, cells to train alone with the labels, too")
    parser.add_argument("--alone-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--linear-epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--augmentation", default="standard", choices=data.augment.AUGMENTATIONS)
    parser.add_argument("--queue", type=int, default=1024)
    parser.add_argument("--momentum", type=float, default=0.99, help="of the mean teacher")
    parser.add_argument("--rate", type=float, default=0.06, help="learning rate of Pi-NAS")
    parser.add_argument("--linear-rate", type=float, default=0.1)
    parser.add_argument("--no-projector-norm", action="store_true", help="the paper's projection, for long trainings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def subset(images: data.ImageData, train: int, val: int) -> data.ImageData:
    """Some of each part, drawn by one seed."""
    rng, parts = np.random.default_rng(0), {}
    for name, part, count in (("train", images.train, train), ("val", images.val, val)):
        rows = torch.from_numpy(np.sort(rng.permutation(len(part))[:count]))
        parts[name] = data.Arrays(part.images[rows], part.labels[rows])
    return dataclasses.replace(images, **parts)


def chosen_cells(count: int) -> tabular.Benchmark:
    """The published rows of the cells to rate."""
    bench = tabular.load("nasbench201").without("none", "skip_connect")
    mask = np.zeros(len(bench), bool)
    mask[np.random.default_rng(0).permutation(len(bench))[:count]] = True
    return bench.where(mask)


def one(
    options: argparse.Namespace, images: data.ImageData, cells: tabular.Benchmark, name: str, seed: int
) -> dict[str, np.ndarray]:
    """Train one supernet and rate the cells, or read what was rated: `errors` `[N]`, `similarity`, `seconds`."""
    folder = options.out / f"{name.replace(' ', '-')}-{seed}"
    path = folder / "rated.npz"
    if not path.exists():
        start = time.monotonic()
        net = train(options, images, name, seed, folder)
        trained = time.monotonic()
        rating = error_rate(options, images, net)
        errors = rating.many([net.space.parse(text) for text in cells.architectures], said(name))
        similarity = path_similarity(net, rating.batches, last_layer_paths(net.space, np.random.default_rng(seed)))
        seconds = np.array([trained - start, time.monotonic() - trained])
        write_arrays(
            path, RATED, {"errors": errors, "similarity": similarity, "seconds": seconds}, method=name, seed=seed
        )
    found, _ = read_arrays(path, RATED)
    return found


def report_alone(options: argparse.Namespace, images: data.ImageData, cells: tabular.Benchmark) -> None:
    """alone.json: cells evenly spaced by accuracy, each trained alone: what a rating at these sizes can hope to reach."""
    path = options.out / "alone.json"
    if not path.exists():
        mask = np.zeros(len(cells), bool)
        mask[np.argsort(cells.accuracy)[:: max(1, len(cells) // options.alone)][: options.alone]] = True
        some, errors = cells.where(mask), []
        for text in some.architectures:
            net = fresh(options, images, 0)
            cell = net.space.parse(text)
            loader = images.loader("train", options.batch, "standard", seed=0, device=options.device)
            pynas.fit(Alone(net, cell), loader, options.alone_epochs, seed=0)
            errors.append(float(error_rate(options, images, net)(cell)))
            say(f"{text} alone: {errors[-1]:.3f}")
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {**ranked(np.array(errors), some), "cells": list(some.architectures), "errors": errors})
    say(f"trained alone: {path.read_text()[:200]}")


def fresh(options: argparse.Namespace, images: data.ImageData, seed: int) -> Any:
    """A supernet with the seed's weights, on --device."""
    ops = NASBENCH201_OPS[-options.ops :]
    space = spaces.nasbench201(n=options.n, channels=options.channels, ops=ops, image_size=options.image_size)
    torch.manual_seed(seed)
    return pynas.supernet(space, images.num_classes).to(options.device, memory_format=torch.channels_last)


def error_rate(options: argparse.Namespace, images: data.ImageData, net: Any) -> ErrorRate:
    """The error of paths on the validation images."""
    calibration = images.loader("train", min(128, len(images.train)), device=options.device)
    return ErrorRate(net, images.loader("val", 250, device=options.device),
                     itertools.islice(calibration, options.calibration))  # fmt: skip


def train(options: argparse.Namespace, images: data.ImageData, name: str, seed: int, folder: Path) -> Any:
    """A supernet with its classifier, on --device; a training that was stopped goes on."""
    net = fresh(options, images, seed)
    build, views = METHODS[name]
    sizes = {"batch_size": options.batch, "seed": seed, "device": options.device}
    settings: dict[str, Any] = {}
    if views > 1:
        settings = {"queue_size": options.queue, "momentum": options.momentum, "learning_rate": options.rate,
                    "projector_norm": not options.no_projector_norm}  # fmt: skip
    method = build(net, **settings).to(options.device)
    augmentation = options.augmentation if views > 1 else "standard"
    loader = images.loader("train", augmentation=augmentation, views=views, **sizes)
    pynas.fit(method, loader, options.epochs, folder, seed=seed)
    if views > 1:
        linear = LinearEvaluation(net, learning_rate=options.linear_rate)
        loader = images.loader("train", augmentation="standard", **sizes)
        pynas.fit(linear, loader, options.linear_epochs, folder / "linear", seed=seed)
    say(f"{name}, seed {seed}: trained")
    return net


def report(
    options: argparse.Namespace, cells: tabular.Benchmark, rated: dict[str, list[dict[str, np.ndarray]]]
) -> None:
    """results.json, results.md and the picture, of what is rated so far."""
    rows: list[dict[str, Any]] = []
    for name, runs in rated.items():
        compared = [ranked(run["errors"], cells) for run in runs]
        rows.append({
            "method": name, "tau": [c["tau"] for c in compared], "interval": compared[0]["interval"],
            "picked": [c["picked"] for c in compared], "error": [float(run["errors"].mean()) for run in runs],
            "consistency": [consistency(run["similarity"]) for run in runs],
            "seconds": [run["seconds"].tolist() for run in runs]})  # fmt: skip
    trivial = tabular.correlate(None, cells, resamples=200)
    for key, found in trivial.everything.items():
        rows.append({"method": tabular.LABELS[key], "tau": [found.tau], "interval": found.tau_interval,
                     "picked": [trivial.picks[key]]})  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = {name: str(value) for name, value in vars(options).items() if name not in ("images", "out")}
    best = trivial.best_accuracy
    write_json(options.out / "results.json", {"sizes": sizes, "cells": len(cells), "best": best, "methods": rows})
    lines = ["| ranking | tau of the seeds | 95 % of the first | accuracy of its choice | mean error | consistency | seconds |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        low, high = row["interval"]
        lines.append(f"| {row['method']} | {listed(row['tau'], '.3f')} | {low:.3f} to {high:.3f} "
                     f"| {listed(row['picked'], '.2f')} | {listed(row.get('error', ()), '.3f')} "
                     f"| {listed(row.get('consistency', ()), '.3f')} "
                     f"| {listed([sum(s) for s in row.get('seconds', ())], '.0f')} |")  # fmt: skip
    lines.append(f"\n{len(cells)} cells; the best reaches {best:.2f} %.")
    write_text(options.out / "results.md", "\n".join(lines) + "\n")
    taus = {row["method"]: float(np.mean(row["tau"])) for row in rows if row["method"] in rated}
    similarities = {name: np.mean([run["similarity"] for run in runs], axis=0) for name, runs in rated.items()}
    draw_consistency(options.out / "consistency", similarities, taus)
    print("\n".join(lines), flush=True)


def ranked(errors: np.ndarray, cells: tabular.Benchmark) -> dict[str, Any]:
    """How well errors rank the cells; not at all where a supernet has collapsed and all are the same."""
    if np.ptp(errors) == 0:
        nothing = float("nan")
        return {"tau": nothing, "interval": (nothing, nothing), "picked": float(cells.accuracy.mean())}
    found = tabular.correlate(errors, cells, resamples=200)
    return {"tau": found.tau, "interval": found.everything["scores"].tau_interval, "picked": found.picks["scores"]}


def listed(values: Any, form: str) -> str:
    """Numbers one after the other."""
    return ", ".join(format(value, form) for value in values)


def said(what: str) -> Any:
    """Says how many cells are rated."""
    return lambda done, total: say(f"{what}: {done} of {total} rated") if done == total or done % 100 < 8 else None


def say(text: str) -> None:
    """A line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
