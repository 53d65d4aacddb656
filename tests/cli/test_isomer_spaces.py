"""Networks of a whole space and their best isomers, against brute force (PreNAS, figure 6)."""

import json

import numpy as np
import pytest
import torch

from pynas import export, runs, spaces, supernet
from pynas.errors import InputError
from pynas.evaluation import ErrorRate
from pynas.files import read_json
from pynas.runs import isomers, load
from pynas.runs.isomer_spaces import best_isomers, compare_spaces
from pynas.zero_cost import random_images, saliency

pytestmark = pytest.mark.integration
SPACE = spaces.autoformer(
    "small", (64, 96), (3, 4), (2, 3), (2, 2.5, 3), qkv_dim=96, patch=4, image_size=32, max_distance=7
)


@pytest.fixture(scope="module")
def redundant(pynas, tmp_path_factory):
    """A run that trained over the whole space."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ("--method", "prenas", "--epochs", 1, "--batch-size", 16, "--option", "sampling=autoformer")
    pynas("train", *words, "--data", "digits", "--limit-images", 300, "--val-fraction", 0.4, "--run", folder)
    return folder


def totals(space, architecture):
    chosen = space.describe(space, architecture)
    return chosen["dim"], chosen["depth"], sum(chosen["heads"]), sum(chosen["ratios"])


@pytest.mark.parametrize("normaliser", ["layer", "snip"])
def test_best_isomers_are_those_of_brute_force(normaliser):
    torch.manual_seed(0)
    scores = saliency(supernet(SPACE, 10), random_images(2, 32, 0)).normalised(normaliser)
    groups = {}
    for architecture in SPACE.architectures():
        groups.setdefault(totals(SPACE, architecture), []).append(architecture)
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(60)]
    found = best_isomers(SPACE, scores, drawn)
    for architecture, isomer in zip(drawn, found, strict=True):
        group = groups[totals(SPACE, architecture)]
        assert isomer in group and scores.of(isomer) == pytest.approx(max(map(scores.of, group)), rel=1e-9)
    assert sum(one != other for one, other in zip(drawn, found)) > 20


def test_spaces_are_measured(redundant, pynas):
    content = pynas("isomers", "--run", redundant, "--spaces", 12, "--images", 2, "--json")
    run, found = load(redundant, "cpu"), content["spaces"]
    assert content == read_json(redundant / "spaces.json", "pynas.isomer_spaces") and content["allocation"] == "exact"
    method, _ = run.trained_method()
    batches = list(run.loader("val"))
    count = sum(len(labels) for _, labels in batches)

    def error(text):
        model = export.subnet(method.net, text).eval()
        with torch.no_grad():
            return 100 * sum(int((model(images).argmax(1) != labels).sum()) for images, labels in batches) / count

    rng = np.random.default_rng(0)
    assert found["A"]["architectures"] == [run.space.format(run.space.sample(rng)) for _ in range(12)]
    errors = {name: np.array([error(text) for text in each["architectures"]]) for name, each in found.items()}
    for name, each in found.items():
        assert each["mean_error"] == pytest.approx(errors[name].mean())
        pairs = list(zip(errors[name], errors["A"]))
        assert each["better_than_a"] == pytest.approx(sum(one < other - 1e-9 for one, other in pairs) / 12)
        assert each["worse_than_a"] == pytest.approx(sum(one > other + 1e-9 for one, other in pairs) / 12)
    assert found["B"]["architectures"] != found["C"]["architectures"]
    svg = (redundant / "spaces.svg").read_text()
    assert f"<!-- B: best isomers by SNIP with layer normalisation; mean {errors['B'].mean():.2f} % -->" in svg
    text = pynas("isomers", "--run", redundant, "--spaces", 12, "--images", 2)
    assert f"{errors['B'].mean():.3f}" in text and f"{found['B']['better_than_a']:.1%}" in text and "spaces.png" in text


def test_a_stopped_comparison_goes_on(redundant, monkeypatch):
    (redundant / "spaces.json").unlink(missing_ok=True)
    run, rated = load(redundant, "cpu"), []
    measure = ErrorRate.many

    def stopping(rating, architectures, progress=None):
        if rated:
            raise KeyboardInterrupt
        rated.extend(architectures)
        return measure(rating, architectures)

    monkeypatch.setattr(isomers, "_BETWEEN_WRITES", 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ErrorRate, "many", stopping)
        compare_spaces(run, 8, 2)
    kept = json.loads((redundant / "spaces.json").read_text())
    assert "spaces" not in kept and len(kept["accuracies"]) == len(rated) == 4
    fresh = []
    monkeypatch.setattr(
        ErrorRate, "many", lambda rating, some, progress=None: fresh.extend(some) or measure(rating, some)
    )
    content = compare_spaces(run, 8, 2)
    assert fresh and not set(fresh) & set(rated) and len(content["accuracies"]) == len(fresh) + 4


def test_bad_requests_are_named(redundant, pynas, tmp_path):
    runs.create(tmp_path / "own", method="dna", space="mbconv-mini")
    for folder, words, message in (
        (redundant, ("--spaces", 5, "--dim", 64), "--spaces without --vary, --dim, --depth and --sample"),
        (redundant, ("--spaces", 5, "--sample", 9), "--spaces without --vary, --dim, --depth and --sample"),
        (redundant, ("--spaces", 0), "at least one network and one image, got 0 and 64"),
        (tmp_path / "own", ("--spaces", 5), "run in a space of AutoFormer, got one in mbconv-mini"),
    ):
        with pytest.raises(InputError, match=message):
            pynas("isomers", "--run", folder, *words)
