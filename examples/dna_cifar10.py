"""DNA on real images: does what it finds beat random nets of the same MAdds, and these the worst-rated one?

    python examples/dna_cifar10.py cifar10.npz --out runs/dna-cifar10

A teacher and one supernet of `mbconv-mini` are trained; every path is rated twice, by the teacher's features (DNA, eq.
7) and by the KL divergence of the teacher's logits at the end of the teacher's tail. Between 96 % and 100 % of half-way
MAdds, the exact search gives the best net of each rating, and on the negated tables the worst by DNA's. These and
random nets of the same MAdds are then trained from scratch by one recipe, several seeds each. Writes results.json and
results.md into --out; what is done already is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import pynas
from pynas import costs, data, export, search, teachers
from pynas.files import write_json, write_text
from pynas.rating import Scores, ScoreTable
from pynas.rating.scores import load_block, save_block
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT, load_weights

RATINGS = ("relative_l1", "kl")
Tables = list[list[ScoreTable]]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    images = subset(data.load(options.images, 32, val_fraction=0.1), options.train_images, options.val_images)
    space = pynas.spaces.get("mbconv-mini")
    torch.manual_seed(0)
    net = pynas.supernet(space, images.num_classes)
    teacher = make_teacher(options, images, net)
    say(f"teacher: {teacher.metadata['test_accuracy']:.2%} on the test images")
    method = train_supernet(options, images, net, teacher)
    table = costs.count(net, images.image_shape)
    tables = {loss: rate(options, images, method, loss) for loss in RATINGS}
    nets = choose(tables, table, options)
    results = retrain(options, images, space, nets)
    report(options, teacher, table, tables, nets, results)


def arguments() -> argparse.Namespace:
    """Sizes, all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="an .npz with x_train, y_train, x_test, y_test, a folder, or cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/dna-cifar10"))
    parser.add_argument("--train-images", type=int, default=6000)
    parser.add_argument("--val-images", type=int, default=400)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--supernet-epochs", type=int, default=4)
    parser.add_argument("--retrain-epochs", type=int, default=2)
    parser.add_argument("--retrain-batch", type=int, default=32)
    parser.add_argument("--random-nets", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def subset(images: data.ImageData, train: int, val: int) -> data.ImageData:
    """The first of each part, which are in the data's own random order."""
    parts = {name: data.Arrays(part.images[:count], part.labels[:count])
             for name, part, count in (("train", images.train, train), ("val", images.val, val))}  # fmt: skip
    return dataclasses.replace(images, **parts, fingerprint=f"{images.fingerprint}-{train}-{val}")


def make_teacher(options: argparse.Namespace, images: data.ImageData, net: pynas.Supernet) -> teachers.Teacher:
    """A small residual network, trained on the same images."""
    path = options.out / "teacher.safetensors"
    if not path.exists():
        blocks, stem = teachers.small_like(net.block_shapes(images.image_shape), images.image_shape)
        deeper = [(*block, 2) for block in blocks]
        teacher = teachers.fit_small(
            images, deeper, stem, epochs=options.teacher_epochs, progress=epoch_done("teacher")
        )
        teachers.save_small(path, teacher)
    return teachers.load_small(path)


def train_supernet(
    options: argparse.Namespace, images: data.ImageData, net: pynas.Supernet, teacher: teachers.Teacher
) -> pynas.methods.DNA:
    """Block-wise distillation, resumed where it was stopped."""
    method = pynas.methods.DNA(net, teacher, image_shape=images.image_shape).to(memory_format=torch.channels_last)
    loader = images.loader("train", 64, "standard")

    def progress(step: pynas.train.Step) -> None:
        if step.step % 50 == 0:
            say(f"supernet: step {step.step} of {step.steps}, loss {sum(step.losses.values()):.3f}")

    pynas.fit(method, loader, options.supernet_epochs, options.out, on_step=progress)
    load_weights(read_tensors(options.out / "checkpoints/last.safetensors", CHECKPOINT), method)
    return method.eval()


def rate(options: argparse.Namespace, images: data.ImageData, method: pynas.methods.DNA, loss: str) -> Tables:
    """Every path of every block under one loss."""
    loader, tables = images.loader("val", 100), []
    for block in range(len(method.net.space)):
        path = options.out / "scores" / f"{loss}-block_{block + 1}.npz"
        if not path.exists():
            start = time.monotonic()
            save_block(path, method.rate_block(loader, block, loss=loss), loss=loss, seconds=time.monotonic() - start)
            say(f"rated block {block + 1} by {loss}")
        tables.append(load_block(path)[0])
    return tables


def choose(tables: dict[str, Tables], table: costs.Costs, options: argparse.Namespace) -> dict[str, str]:
    """The best net of each rating, the worst of the first, and random ones, all within 2 % of the same MAdds, below half-way."""
    space = pynas.spaces.get("mbconv-mini")
    half_way = sum(costs.cost_range(space, table, "madds")) / 2
    window: dict[str, Any] = {"limits": {"madds": half_way}, "at_least": {"madds": 0.96 * half_way}}
    nets = {}
    for loss, rated in tables.items():
        nets[f"found by {loss}"] = str(search.best(Scores(space, rated), table, **window)[0].architecture)
    negative = Scores(space, negated(tables[RATINGS[0]]))
    nets[f"worst by {RATINGS[0]}"] = str(search.best(negative, table, **window)[0].architecture)
    rng, drawn = np.random.default_rng(1), 0
    while drawn < options.random_nets:
        architecture = space.sample(rng)
        if 0.96 <= table.of(architecture)["madds"] / half_way <= 1:
            drawn += 1
            nets[f"random {drawn}"] = str(architecture)
    return nets


def negated(tables: Tables) -> Tables:
    """Tables whose best is the worst of these."""
    return [[ScoreTable(-cell.scores) for cell in cells] for cells in tables]


def retrain(
    options: argparse.Namespace, images: data.ImageData, space: pynas.spaces.Space, nets: dict[str, str]
) -> dict[str, list[float]]:
    """Test accuracies of each net from scratch, seed after seed; kept after each one."""
    path = options.out / "retrained.json"
    done: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for seed in range(options.seeds):
        for architecture in dict.fromkeys(nets.values()):
            key = f"{architecture} {seed}"
            if key not in done:
                torch.manual_seed(seed)
                model = export.standalone(space, architecture, images.num_classes)
                model = model.to(memory_format=torch.channels_last)
                epochs, batch = options.retrain_epochs, options.retrain_batch
                done[key] = teachers.train_classifier(model, images, epochs=epochs, batch_size=batch, seed=seed)
                write_json(path, done)
                say(f"{architecture}, seed {seed}: {done[key]:.2%}")
    return {name: [done[f"{net} {seed}"] for seed in range(options.seeds)] for name, net in nets.items()}


def report(
    options: argparse.Namespace,
    teacher: teachers.Teacher,
    table: costs.Costs,
    tables: dict[str, Tables],
    nets: dict[str, str],
    results: dict[str, list[float]],
) -> None:
    """results.json, and the table as results.md."""
    rows: list[dict[str, Any]] = []
    for name, architecture in nets.items():
        chosen = pynas.Architecture.parse(architecture)
        scores = {loss: sum(rated[b][c.cell][c.path] for b, c in enumerate(chosen)) for loss, rated in tables.items()}
        rows.append({"net": name, "architecture": architecture, **table.of(chosen), "scores": scores,
                     "test_accuracies": results[name], "mean": float(np.mean(results[name])),
                     "deviation": float(np.std(results[name], ddof=1)) if options.seeds > 1 else None})  # fmt: skip
    content = {"sizes": {name: str(value) for name, value in vars(options).items()}, "teacher": teacher.metadata,
               "tau": agreement(tables, table), "nets": rows}  # fmt: skip
    write_json(options.out / "results.json", content)
    heads = "| net | architecture | MAdds | parameters | relative L1 | KL | test accuracy, mean of the seeds | each |"
    lines = [heads, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        each = ", ".join(f"{100 * value:.2f}" for value in row["test_accuracies"])
        spread = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.2f}"
        architecture = row["architecture"].replace("|", "\\|")  # a bar alone would end the table's cell
        lines.append(f"| {row['net']} | `{architecture}` | {row['madds'] / 1e6:.2f} M | {row['params'] / 1e3:.0f} k "
                     f"| {row['scores']['relative_l1']:.4f} | {row['scores']['kl']:.4f} "
                     f"| {100 * row['mean']:.2f} %{spread} | {each} |")  # fmt: skip
    write_text(options.out / "results.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"Kendall's tau over 1,000 random nets: {content['tau']}")


def agreement(tables: dict[str, Tables], table: costs.Costs) -> dict[str, float]:
    """Kendall's tau over 1,000 random nets: between the ratings, and of each with MAdds (more is better)."""
    space, rng = pynas.spaces.get("mbconv-mini"), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(1000)]
    scores = {loss: np.array([sum(rated[b][c.cell][c.path] for b, c in enumerate(net)) for net in drawn])
              for loss, rated in tables.items()}  # fmt: skip
    madds = [table.of(net)["madds"] for net in drawn]
    tau = {f"{loss}, MAdds": float(stats.kendalltau(-values, madds).statistic) for loss, values in scores.items()}
    return {", ".join(tables): float(stats.kendalltau(*scores.values()).statistic), **tau}


def epoch_done(what: str) -> Any:
    """Says how far a training is."""
    return lambda done, epochs, loss: say(f"{what}: epoch {done} of {epochs}, loss {loss:.3f}")


def say(text: str) -> None:
    """A line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
