"""Architecture shift: how often do DNA and DNA++ pick the operation that the teacher itself is made of?

    python examples/architecture_shift.py                       # digits at 16x16, a few minutes on one core
    python examples/architecture_shift.py --data cifar10.npz --side 32 --train-images 2000

A teacher and a space have the same blocks; the teacher has one kind of MBConv in every layer, the space offers six. Operations
like the teacher's have an easier time imitating its features, so a distilled supernet may favour them (DNA family,
sections 3.5 and 4.4). For each kind of teacher and each seed, both methods train a supernet beside it (DNA with the teacher
trained on the labels, DNA++ with a fresh one that learns along), rate every path, and take the best path of each block
without a limit. Printed is a Markdown table of how many of the picked layers are of the teacher's kind, and of how many are
when the teacher is of another kind: bias is the difference of the two, since a kind may also be picked on its merits.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter

import numpy as np
import torch

import pynas
from pynas import data, export, methods, teachers
from pynas.spaces.mbconv import DNA_OPS, StemSpec, mbconv
from pynas.teachers import Teacher

KINDS = tuple(f"MB{expand} k{kernel}" for expand, kernel in DNA_OPS)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    images = data.load(options.data, options.side)
    images = subset(images, options.train_images, options.val_images)
    # Per block its stride and one cell of (layers, channels).
    space = mbconv("shift", [(2, [(2, 16)]), (1, [(2, 24)]), (2, [(2, 32)])], DNA_OPS, StemSpec(12, 1), 64,
                   image_size=options.side)  # fmt: skip
    picks: dict[tuple[str, str], list[str]] = {(m, kind): [] for kind in options.teachers for m in ("dna", "dna-pp")}
    for seed in range(options.seeds):
        for method, kind in picks:
            picks[method, kind] += run(method, kind, seed, space, images, options)
    print(table(picks))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, cifar10, an .npz file or an image folder")
    parser.add_argument("--side", type=int, default=16, help="of the images, in pixels")
    parser.add_argument("--train-images", type=int, default=1000)
    parser.add_argument("--val-images", type=int, default=256)
    parser.add_argument("--teachers", nargs="+", choices=KINDS, default=["MB6 k5", "MB3 k3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of each supernet")
    parser.add_argument("--teacher-epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def subset(images: data.ImageData, train: int, val: int) -> data.ImageData:
    """The first images of each part, of which the order is random."""

    def first(part: data.images.Arrays, count: int) -> data.images.Arrays:
        chosen = np.random.default_rng(0).permutation(len(part))[:count]
        return data.images.Arrays(*part.batch(chosen))

    return dataclasses.replace(images, train=first(images.train, train), val=first(images.val, val))


def run(method: str, kind: str, seed: int, space, images: data.ImageData, options: argparse.Namespace) -> list[str]:
    """The kinds of all layers of the best path of every block."""
    started = time.process_time()
    torch.manual_seed(seed)
    net = pynas.supernet(space, images.num_classes)
    module = export.standalone(space, pynas.Architecture.of([(0, [KINDS.index(kind)] * 2)] * 3), images.num_classes)
    views = 2 if method == "dna-pp" else 1
    if method == "dna":
        train(module, images, options, seed)
    teacher = Teacher(module, ["block_1", "block_2", "block_3"])
    build = {"dna": methods.DNA, "dna-pp": methods.DNAPlusPlus}[method]
    # LARS's own trust of 0.001 is too little for so few steps.
    learner = build(net, teacher, image_shape=images.image_shape, **({"trust": 0.03} if method == "dna-pp" else {}))
    loader = images.loader("train", options.batch_size, "standard", views=views, seed=seed)
    pynas.fit(learner, loader, options.epochs, seed=seed)
    tables = learner.rate(images.loader("val", options.batch_size))
    picked = [KINDS[c] for (scores,) in tables for c in np.unravel_index(np.argmin(scores.scores), scores.shape)]
    note = f", teacher's test accuracy {teachers.accuracy(module.eval(), images):.1%}" if method == "dna" else ""
    print(
        f"{method} beside {kind}, seed {seed}: {', '.join(picked)} ({time.process_time() - started:.0f} s of a core{note})",
        flush=True,
    )
    return picked


def train(module: torch.nn.Module, images: data.ImageData, options: argparse.Namespace, seed: int) -> None:
    """Train a teacher on the labels."""
    loader = images.loader("train", options.batch_size, "standard", seed=seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.005, weight_decay=0.05)
    steps = options.teacher_epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps)
    for epoch in range(options.teacher_epochs):
        loader.set_epoch(epoch)
        for batch, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(batch), labels).backward()
            optimizer.step()
            schedule.step()


def table(picks: dict[tuple[str, str], list[str]]) -> str:
    """Layers of the teacher's kind, and of that kind beside teachers of other kinds, of how many."""
    lines = ["| method | teacher | layers of the teacher's kind | of that kind beside other teachers | by chance | all picks |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for (method, kind), own in picks.items():
        others = [pick for (m, k), some in picks.items() if m == method and k != kind for pick in some]
        beside = f"{others.count(kind)} of {len(others)}" if others else "-"
        spread = ", ".join(f"{name} {count}" for name, count in sorted(Counter(own).items()))
        chance = f"{len(own) / len(KINDS):.0f} of {len(own)}"
        lines.append(f"| {method} | {kind} | {own.count(kind)} of {len(own)} | {beside} | {chance} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
