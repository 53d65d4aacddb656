"""DNA+: is a later generation's architecture better than an earlier one's? Each is trained from scratch by one recipe.

    pynas run --method dna-plus --data digits --epochs 4 --option generations=2 --max-madds 16.36M --run runs/plus
    python examples/retrain_generations.py runs/plus --epochs 4 --seeds 3

Prints a markdown table and writes retrained_generations.json into the run's folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from pynas import data, export, spaces, teachers
from pynas.files import read_json, write_json
from pynas.runs.recipes.dna_plus import GENERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = yaml.safe_load((options.run / "config.yaml").read_text())
    space = spaces.get(settings["space"])
    images = data.load(settings["data"], settings["image_size"] or space.image_size, seed=settings["seed"])
    rows = read_json(options.run / "generations.json", GENERATIONS)["generations"]
    print("| generation | architecture | MAdds | parameters | its teacher | test accuracy, mean of the seeds | each |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        row["test_accuracies"] = [
            retrained(space, row["architecture"], images, options, seed) for seed in range(options.seeds)
        ]
        values, architecture = 100 * np.array(row["test_accuracies"]), row["architecture"].replace("|", "\\|")
        spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        taught = "" if row["teacher_accuracy"] is None else f"{row['teacher_accuracy']:.2%}"
        sizes = f"{row['madds'] / 1e6:.2f} M | {row['params'] / 1e3:.0f} k"
        each = ", ".join(f"{value:.2f}" for value in values)
        print(
            f"| {row['generation']} | `{architecture}` | {sizes} | {taught} | {values.mean():.2f} %{spread} | {each} |"
        )
    write_json(options.run / "retrained_generations.json", {"epochs": options.epochs, "generations": rows})


def retrained(
    space: spaces.Space, architecture: str, images: data.ImageData, options: argparse.Namespace, seed: int
) -> float:
    """Test accuracy of one architecture from scratch."""
    torch.manual_seed(seed)
    model = export.standalone(space, architecture, images.num_classes).to(memory_format=torch.channels_last)
    how = {"epochs": options.epochs, "batch_size": options.batch_size, "seed": seed}
    return teachers.train_classifier(model, images, **how)


if __name__ == "__main__":
    main()
