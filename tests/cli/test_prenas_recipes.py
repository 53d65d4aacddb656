"""The recipes of PreNAS's table 9 and the baselines on entangled supernets, from the command line."""

from pathlib import Path

import pytest
import torch
import yaml

import pynas as package
from pynas import spaces
from pynas.errors import InputError
from pynas.files import read_json
from pynas.runs import METHODS, load
from pynas.runs.recipes import recipe_of

TINY = ("--epochs", 1, "--batch-size", 16, "--accumulate", 1, "--limit-images", 40, "--option", "images=2",
        "--option", "interval=150k")  # fmt: skip
# Table 9 as printed: weight decay, label smoothing, mixup, CutMix, policy, erasing probability and count.
PRINTED = {
    "tiny": (0.02, 0.1, 0, 0, "rand-m9-n2-mstd0.5-inc1", 0.25, 1),
    "small": (0.05, 0.1, 0.8, 1, "v0r-mstd0.5", 0.25, 1),
    "base": (0.05, 0.1, 0.8, 1, "rand-m10-n3-mstd0.5-inc1", 0.25, 2),
}
OPTIONS = METHODS["prenas"].options()
COLUMNS = ("weight_decay", "label_smoothing", "mixup", "cutmix", "augmentation", "erasing", "erasing_count")


@pytest.mark.parametrize("name", PRINTED)
def test_recipes_are_table_9_and_single_options_go_first(name):
    filled = OPTIONS.filled(f"paper-{name}", {})
    assert tuple(filled[column] for column in COLUMNS) == PRINTED[name]
    assert filled["repeats"] > 1 and filled["drop_path"] > 0
    assert (filled["learning_rate"], filled["min_rate"]) == (1e-3, 2e-5)
    assert OPTIONS.settings(f"paper-{name}") == {"epochs": 500, "batch_size": 128, "accumulate": 8}
    again = OPTIONS.filled(f"paper-{name}", {"mixup": 0.3, "repeats": 1})
    assert again == {**filled, "mixup": 0.3, "repeats": 1}
    assert OPTIONS.filled(f"code-{name}", {}) == {**filled, "normaliser": "balance"}


@pytest.mark.integration
def test_a_recipe_trains_and_is_remembered(pynas, half_images, tmp_path: Path):
    folder = tmp_path / "run"
    pynas("train", "--method", "prenas", "--data", half_images, *TINY, "--run", folder, "--recipe", "paper-base",
          "--option", "repeats=2")  # fmt: skip
    assert yaml.safe_load((folder / "config.yaml").read_text())["recipe"] == "paper-base"
    run = load(folder)
    loader, method = run.training_loader(), run.trained_method()[0]
    assert method.mixup.mixup_alpha == 0.8 and method.weight_decay == 0.05 and method.label_smoothing == 0.1
    want = run.data.loader("train", 16, PRINTED["base"][4], erasing=0.25, erasing_count=2, repeats=2)
    for (images, labels), (expected, classes) in zip(loader, want, strict=True):
        assert torch.equal(images, expected) and torch.equal(labels, classes)


@pytest.mark.integration
@pytest.mark.parametrize("method", ["spos", pytest.param("fairnas", marks=pytest.mark.slow)])
def test_baselines_train_entangled_supernets(pynas, half_images, tmp_path: Path, method: str):
    folder = tmp_path / "run"
    words = ("--method", method, "--space", "autoformer-mini", "--data", half_images, *TINY, "--run", folder)
    report = pynas("run", *words, "--max-params", "500k", "--json")
    trained = load(folder).trained_method()[0]
    assert trained.sampling == method and trained.net.space.name == "autoformer-mini"
    members = read_json(folder / "preferred.json", "pynas.preferred")["architectures"]
    assert report["search"]["rated"] == len(members)
    assert report["exported"]["params"] == report["search"]["found"][0]["params"] <= 500e3


def test_baselines_elsewhere_are_as_they_were():
    assert recipe_of("spos", "nasbench201-mini") is recipe_of("spos") is not recipe_of("spos", "autoformer-tiny")
    assert recipe_of("prenas", "autoformer-mini") is METHODS["prenas"]
    assert "sampling" not in recipe_of("spos", "autoformer-mini").options().method
    with pytest.raises(InputError, match="autoformer-huge"):
        recipe_of("spos", "autoformer-huge")
    with pytest.raises(InputError, match=r"use pynas.methods.PreNAS\(net, sampling='spos'\)"):
        package.methods.spos(package.supernet(spaces.get("autoformer-mini"), 3))
