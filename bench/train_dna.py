"""DNA on whole CIFAR-10, on a GPU: are the nets that it finds better than others under the same budget? Goes on where it stopped.

    python -m bench.train_dna cifar10.npz --run FOLDER [--jobs 8]

`pynas run` trains, rates and searches mbconv-mini under half-way MAdds. Four kinds of nets are then trained from scratch, each
under three seeds: the best found, random ones and the worst-rated within 4 % of the budget, and the largest under it. FOLDER
gets nets.json, retrained.json (after each training) and table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pynas
from bench._command import command_line, device, run
from pynas import costs, data, export, search, teachers
from pynas.files import write_json, write_text
from pynas.rating import Scores, ScoreTable

SPACE, NEAR = "mbconv-mini", 0.96  # random and worst nets use at least so much of the budget


def main() -> None:
    options = arguments()
    supernet(options)
    nets = chosen(options)
    results = retrained(options, nets)
    text = table(options, nets, results)
    write_text(options.run / "table.md", text)
    print(text)


def arguments() -> argparse.Namespace:
    """Sizes, all of them."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("images", help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20, help="of the supernet")
    parser.add_argument("--batch-size", type=int, default=256, help="of the supernet")
    parser.add_argument("--limit-images", type=int, help="of the supernet and of the retrainings [default: all]")
    parser.add_argument("--random-nets", type=int, default=2)
    parser.add_argument("--retrain-epochs", type=int, default=30)
    parser.add_argument("--retrain-batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=8, help="retrainings at a time, all on one device")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def supernet(options: argparse.Namespace) -> None:
    """Train, rate and search by the command line; what is done already is not done again."""
    if (options.run / "nets.json").exists():  # chosen in an earlier call
        return
    given = {"method": "dna", "space": SPACE, "data": options.images, "run": options.run, "epochs": options.epochs,
             "batch-size": options.batch_size, "limit-images": options.limit_images, "device": options.device,
             "max-madds": "16.36M"}  # fmt: skip
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "pynas", "run", "--json", *words], check=True)


def chosen(options: argparse.Namespace) -> dict[str, str]:
    """The nets by name, kept in nets.json."""
    path = options.run / "nets.json"
    if path.exists():
        return json.loads(path.read_text())
    space = pynas.spaces.get(SPACE)
    counted = costs.count(pynas.supernet(space, 10), (3, 32, 32))
    budget = sum(costs.cost_range(space, counted, "madds")) / 2
    rated = Scores.load(options.run / "scores", space)
    worst = Scores(space, [[ScoreTable(-table.scores) for table in cells] for cells in rated])
    small = Scores(
        space, [[ScoreTable(-np.asarray(cell, dtype=float)) for cell in cells] for cells in counted["madds"]]
    )
    near = {"madds": NEAR * budget}
    nets = {"found": best(rated, counted, budget), "worst-rated": best(worst, counted, budget, near),
            "largest": best(small, counted, budget)}  # fmt: skip
    rng = np.random.default_rng(1)
    while len(nets) < 3 + options.random_nets:
        net = space.sample(rng)
        if NEAR <= counted.of(net)["madds"] / budget <= 1:
            nets[f"random {len(nets) - 2}"] = str(net)
    write_json(path, nets)
    return nets


def best(scores: Scores, counted: costs.Costs, budget: float, at_least: dict[str, float] | None = None) -> str:
    """The string form of the best net under the budget."""
    return str(search.best(scores, counted, limits={"madds": budget}, at_least=at_least)[0].architecture)


def retrained(options: argparse.Namespace, nets: dict[str, str]) -> dict[str, float]:
    """Test accuracies by "architecture seed", kept after each training; several run at a time."""
    path = options.run / "retrained.json"
    done: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [(net, seed) for seed in range(options.seeds) for net in dict.fromkeys(nets.values())
              if f"{net} {seed}" not in done]  # fmt: skip
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(retrain, options, net, seed): f"{net} {seed}" for net, seed in wanted}
        for future in as_completed(running):
            done[running[future]] = future.result()
            write_json(path, done)
            print(time.strftime("%H:%M:%S"), running[future], f"{done[running[future]]:.2%}", flush=True)
    return done


def retrain(options: argparse.Namespace, architecture: str, seed: int) -> float:
    """The test accuracy of a net trained from scratch on all training images."""
    torch.set_num_threads(1)
    images = data.load(options.images, 32, val_fraction=0.0, limit=options.limit_images)
    torch.manual_seed(seed)
    model = export.standalone(pynas.spaces.get(SPACE), architecture, images.num_classes)
    model = model.to(memory_format=torch.channels_last)
    return teachers.train_classifier(model, images, epochs=options.retrain_epochs, batch_size=options.retrain_batch,
                                     seed=seed, device=options.device)  # fmt: skip


def table(options: argparse.Namespace, nets: dict[str, str], results: dict[str, float]) -> str:
    """Markdown: one row per net."""
    counted = costs.count(pynas.supernet(SPACE, 10), (3, 32, 32))
    lines = ["| net | architecture | MAdds | parameters | test accuracy, mean | each |", "|---|---|---|---|---|---|"]
    for name, net in nets.items():
        cost: dict[str, Any] = counted.of(pynas.Architecture.parse(net))
        each = [100 * results[f"{net} {seed}"] for seed in range(options.seeds)]
        spread = f" ± {np.std(each, ddof=1):.2f}" if len(each) > 1 else ""
        lines.append(f"| {name} | `{net.replace('|', chr(92) + '|')}` | {cost['madds'] / 1e6:.2f} M | {cost['params'] / 1e3:.0f} k "
                     f"| {np.mean(each):.2f} %{spread} | {', '.join(f'{value:.2f}' for value in each)} |")  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
