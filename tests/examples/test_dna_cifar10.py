"""The CIFAR-10 experiment: what it chooses, against sampling; and, slowly, the whole script on a few images."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pynas
from pynas import costs, data
from pynas.rating import ScoreTable

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "dna_cifar10.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("dna_cifar10", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_chosen_nets_cost_alike_and_are_the_best_and_the_worst(example):
    space = pynas.spaces.get("mbconv-mini")
    table = costs.count(pynas.supernet(space, 10), (3, 32, 32))
    rng = np.random.default_rng(0)
    tables = {
        loss: [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
        for loss in example.RATINGS
    }
    nets = example.choose(tables, table, argparse.Namespace(random_nets=2))
    assert set(nets) == {"found by relative_l1", "found by kl", "worst by relative_l1", "random 1", "random 2"}
    low, high = costs.cost_range(space, table, "madds")
    window = (0.96 * (low + high) / 2, (low + high) / 2)

    def score(loss, architecture):
        return sum(tables[loss][b][choice.cell].scores[choice.path] for b, choice in enumerate(architecture))

    sample = [space.sample(rng) for _ in range(3000)]
    sample = [net for net in sample if window[0] <= table.of(net)["madds"] <= window[1]]
    assert len(sample) > 100
    for name, text in nets.items():
        net = space.parse(text)
        assert window[0] <= table.of(net)["madds"] <= window[1]
        which, _, loss = name.partition(" by ")
        if which == "found":
            assert score(loss, net) <= min(score(loss, other) for other in sample)
        if which == "worst":
            assert score(loss, net) >= max(score(loss, other) for other in sample)


def test_subsets_are_the_first_of_each_part(example):
    whole = data.load("digits", 8)
    part = example.subset(whole, 30, 20)
    assert len(part.train) == 30 and len(part.val) == 20 and len(part.test) == len(whole.test)
    assert np.array_equal(part.train.labels.numpy(), whole.train.labels.numpy()[:30])
    assert part.fingerprint != whole.fingerprint


@pytest.mark.slow
@pytest.mark.integration
def test_the_script(tmp_path):
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (300, 32, 32, 3), dtype=np.uint8), np.arange(300) % 3
    path = tmp_path / "noise.npz"
    np.savez(path, x_train=pictures[:280], y_train=labels[:280], x_test=pictures[280:], y_test=labels[280:])
    sizes = {"train-images": 128, "val-images": 25, "teacher-epochs": 1, "supernet-epochs": 1, "retrain-epochs": 1,
             "random-nets": 1, "seeds": 2}  # fmt: skip
    words = [sys.executable, str(SCRIPT), str(path), "--out", str(tmp_path / "out")]
    words += [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])})
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["net"] for row in results["nets"]][-1] == "random 1" and len(results["nets"]) == 4
    assert all(len(row["test_accuracies"]) == 2 for row in results["nets"])
    lines = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert len(lines) == 2 + 4 and all(line.startswith("| ") or line.startswith("|-") for line in lines)
