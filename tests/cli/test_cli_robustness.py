"""`pynas robustness`: its variants, and the whole command on a few small images."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau
from typer.testing import CliRunner

from pynas import data
from pynas.cli import app
from pynas.errors import InputError
from pynas.runs import create
from pynas.runs.robustness import Variant, _settings, part_of, seeds_of, variants
from pynas.runs.settings import Settings
from pynas.spaces import get
from pynas.tensor_files import read_tensors


def test_the_reference_comes_first_and_nothing_twice():
    found = [variant.name for variant in variants(4, 3, [0.25, 1.0, 0.5])]
    assert found == ["seed_4", "seed_5", "seed_6", "fraction_0.5", "fraction_0.25"]
    assert [variant.name for variant in variants(0, [0, 41, 42], [1.0])] == ["seed_0", "seed_41", "seed_42"]
    with pytest.raises(InputError, match="fractions above 0 and up to 1, got 2"):
        variants(0, 1, [2.0])
    assert seeds_of("3") == 3 and seeds_of("0,41, 42") == [0, 41, 42]
    with pytest.raises(InputError, match="at least one seed, got 0"):
        variants(0, 0, [1.0])
    for text in ("-1", "two", "1,1", "1,"):
        with pytest.raises(InputError, match=rf"different seeds separated by commas, got '{text}'"):
            seeds_of(text)


def test_steps_and_learning_rates_stay_the_same_with_less_data(tmp_path):
    base = create(tmp_path / "run", epochs=10)
    settings = _settings(base, Variant(3, 0.4))
    assert (settings.seed, settings.epochs) == (3, 25)
    assert settings.options["decay"] ** 25 == pytest.approx(0.9**10)
    assert _settings(base, Variant(5)) == Settings(epochs=10, seed=5)


def test_parts_have_the_classes_in_equal_shares():
    whole = data.load("digits", 8)
    part = part_of(whole, 0.25)
    assert len(part.train) == pytest.approx(len(whole.train) / 4, abs=1)
    counts = [np.bincount(each.train.labels.numpy()) for each in (whole, part)]
    assert np.abs(counts[0] / 4 - counts[1]).max() <= 1
    assert part.fingerprint != whole.fingerprint and part.val is whole.val
    again = part_of(whole, 0.25)
    assert np.array_equal(again.train.images.numpy(), part.train.images.numpy())


def test_the_command_takes_every_setting_of_a_training(tmp_path, monkeypatch):
    """All of `pynas train`'s but the method, and what else names the folder."""
    given = []
    monkeypatch.setattr("pynas.runs.robustness.check_robustness", lambda base, *rest: given.append(base) or {})
    monkeypatch.setattr("pynas.cli.display.print_json", lambda content: None)
    settings = {"space": "mbconv-mini", "data": "digits", "teacher": "tf_efficientnet_b0", "taps": "blocks.1,blocks.2",
                "epochs": 3, "batch-size": 16, "accumulate": 2, "image-size": 32, "limit-images": 100,
                "val-fraction": 0.5, "seed": 7}  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    words += ["--no-pretrained", "--option", "decay=0.5", "--run", str(tmp_path / "run"), "--json"]
    result = CliRunner().invoke(app, ["robustness", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    expected = {name.replace("-", "_"): value for name, value in settings.items()} | {"taps": ["blocks.1", "blocks.2"]}
    assert given[0].settings == Settings(**expected, pretrained=False, options={"decay": 0.5})


@pytest.mark.slow
@pytest.mark.integration
def test_the_command(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pictures = rng.integers(0, 120, (80, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    path, folder = tmp_path / "halves.npz", tmp_path / "run"
    np.savez(path, x_train=pictures[:64], y_train=labels[:64], x_test=pictures[64:], y_test=labels[64:])
    words = ["robustness", "--data", path, "--epochs", 1, "--batch-size", 8, "--seeds", 2, "--fractions", "0.5",
             "--run", folder, "--json"]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    names = ["seed_0", "seed_1", "fraction_0.5"]
    assert [each["name"] for each in content["runs"]] == names
    assert content["tau"][0][0] == 1 and all(-1 <= each["tau"] < 1 for each in content["runs"][1:])
    assert (folder / "robustness.png").stat().st_size > 5000
    places = [folder, folder / "seed_1", folder / "fraction_0.5"]
    steps = [read_tensors(place / "checkpoints/last.safetensors", "pynas.checkpoint").metadata for place in places]
    assert [(each["seed"], each["epochs"], each["steps"]) for each in steps] == [(0, 1, 6), (1, 1, 6), (0, 2, 6)]
    assert len(list(folder.rglob("teacher.safetensors"))) == 1
    times = [(place / "scores/block_4.npz").stat().st_mtime_ns for place in places]
    again = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert json.loads(again.stdout) == content
    assert times == [(place / "scores/block_4.npz").stat().st_mtime_ns for place in places]


@pytest.mark.integration
def test_whole_networks_of_any_space(half_images, tmp_path, pynas):
    """A method that rates no paths: the drawn networks are rated by their error, once, and the best of them is found."""
    folder = tmp_path / "run"
    words = ["robustness", "--method", "spos", "--space", "nasbench201-mini", "--data", half_images, "--epochs", 1, "--batch-size",
             16, "--seeds", "0,7", "--fractions", "1", "--sample", 5, "--run", folder, "--json"]  # fmt: skip
    content = pynas(*words)
    assert [each["name"] for each in content["runs"]] == ["seed_0", "seed_7"] and content["sample"] == 5
    kept = [json.loads((folder / part / "network_scores.json").read_text())["scores"] for part in (".", "seed_7")]
    space = get("nasbench201-mini")
    assert kept[0].keys() == kept[1].keys() and len(kept[0]) == 5
    for each, scores in zip(content["runs"], kept):
        values = list(scores.values())
        assert scores[str(space.parse(each["found"]))] == min(values) and each["block_tau"] == []
        first = list(kept[0].values())
        if len(set(values)) > 1 and len(set(first)) > 1:
            assert each["tau"] == pytest.approx(kendalltau(first, values).statistic)
        best = min(range(5), key=first.__getitem__)
        assert each["better_share"] == pytest.approx(sum(value < values[best] for value in values) / 5)
    before = (folder / "network_scores.json").stat().st_mtime_ns
    assert pynas(*words) == content and (folder / "network_scores.json").stat().st_mtime_ns == before
    assert "of each block" not in pynas(*words[:-1])
    with pytest.raises(InputError, match="expected --seed 0, the first of --seeds 0,7, or none, got 3"):
        pynas(*words, "--seed", 3)
    again = pynas(*words, "--norm", "batch")
    assert again["norm"] == "batch" != content["norm"]
    with pytest.raises(InputError, match="expected a loss of"):
        pynas(*words, "--loss", "kl")


def test_generations_are_not_compared(tmp_path, pynas):
    with pytest.raises(InputError, match="a method of one supernet, got dna-plus"):
        pynas("robustness", "--method", "dna-plus", "--data", "digits", "--run", tmp_path / "run")


@pytest.mark.parametrize("method", ["dna", "dna-plus", "dna-pp"])
@pytest.mark.parametrize("space", ["nasbench201-mini", "autoformer-mini", "bignas-mini"])
def test_spaces_without_blocks_are_named(method, space, tmp_path):
    run = create(tmp_path / "run", method=method, space=space, data="digits", limit_images=60)
    with pytest.raises(InputError, match=f"expected a space of blocks that a teacher can supervise, got {space}"):
        run.train()
