"""PreNAS from the command line, from selection to the exported network, on a few small images."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pynas.cli import app
from pynas.errors import InfeasibleError, InputError
from pynas.export import load_subnet
from pynas.zero_cost import load_preferred

pytestmark = pytest.mark.integration


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Images whose class is the half that is bright."""
    rng, labels = np.random.default_rng(0), np.arange(96) % 2
    pictures = rng.integers(0, 120, (96, 32, 32), dtype=np.uint8)
    pictures[labels == 0, :16] += 100
    pictures[labels == 1, 16:] += 100
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x_train=pictures[:64], y_train=labels[:64], x_test=pictures[64:], y_test=labels[64:])
    return path


@pytest.fixture(scope="module")
def finished(halves, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = ["--data", halves, "--epochs", 1, "--batch-size", 16, "--run", folder, "--option", "images=2"]
    words += ["--option", "interval=150k", "--option", "sandwich=1", "--option", "distill=true", "--max-params", "500k"]
    return folder, json.loads(invoke("run", "--method", "prenas", *words, "--json"))


def test_convolutional_networks(halves, tmp_path):
    """The whole flow on a BigNAS space; the exported network has batch norm of its own."""
    words = ["--method", "prenas", "--space", "bignas-mini", "--data", halves, "--epochs", 1, "--batch-size", 16]
    for option in ("images=2", "interval=1M", "cost=madds", "sandwich=1", "distill=true"):
        words += ["--option", option]
    report = json.loads(invoke("run", *words, "--run", tmp_path, "--max-params", "150k", "--json"))
    members = json.loads((tmp_path / "preferred.json").read_text())["architectures"]
    assert report["search"]["rated"] == len(members) == 6
    assert set(json.loads((tmp_path / "scores" / "preferred.json").read_text())["accuracies"]) == {
        member["architecture"] for member in members
    }
    exported = json.loads(invoke("export", "--run", tmp_path, "--max-params", "60k", "--json"))
    model, _ = load_subnet(exported["file"])
    assert sum(p.numel() for p in model.parameters()) == exported["params"] <= 60e3
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2) and not model.training
    # An average over the three training batches, not the training's nine forward passes.
    assert {int(value) for name, value in model.state_dict().items() if "num_batches" in name} == {3}
    invoke("search", tmp_path, "--max-latency", "100ms")
    invoke("report", tmp_path)
    assert "preferred" in (tmp_path / "report.html").read_text()


def test_every_stage_leaves_its_file(finished):
    folder, report = finished
    for name in (
        "preferred.json",
        "checkpoints/last.safetensors",
        "scores/preferred.json",
        "costs.npz",
        "search.json",
    ):
        assert (folder / name).is_file(), name
    found, exported = report["search"]["found"], report["exported"]
    assert report["search"]["rated"] == len(json.loads((folder / "preferred.json").read_text())["architectures"])
    assert [entry["score"] for entry in found] == sorted(entry["score"] for entry in found)
    assert all(entry["params"] <= 500e3 for entry in found)
    model, metadata = load_subnet(exported["file"])
    assert sum(p.numel() for p in model.parameters()) == exported["params"] == found[0]["params"]
    assert metadata["architecture"] == found[0]["architecture"]
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    invoke("report", folder)
    assert "preferred" in (folder / "report.html").read_text()


def test_limits_choose_among_the_preferred(finished):
    folder, _ = finished
    from pynas.runs import load

    members = load_preferred(folder / "preferred.json", load(folder).space).members
    least = min(one.costs["params"] for one in members)
    content = json.loads(invoke("search", folder, "--limit", f"params={least}", "--json"))
    assert [entry["params"] for entry in content["found"]] == [least]
    exported = json.loads(invoke("export", "--run", folder, "--json"))
    assert exported["params"] == least
    content = json.loads(invoke("search", folder, "--max-latency", "100ms", "--json"))
    assert all(0 < entry["latency"] <= 100 for entry in content["found"])
    assert "Best architectures" in invoke("search", folder)


def test_a_dry_run_says_what_it_would_cost(finished):
    folder, _ = finished
    words = ["--option", "images=2", "--option", "interval=150k", "--batch-size", 8, "--limit-images", 64, "--json"]
    content = json.loads(invoke("run", "--method", "prenas", "--dry-run", *words))
    low, high = content["costs"]["madds"]
    assert 10e6 < low < high < 50e6 and content["architectures"] == 10752 and content["seconds_per_step"] > 0
    members = len(json.loads((folder / "preferred.json").read_text())["architectures"])
    assert members * low < content["rating_madds_per_image"] < members * high


def test_export_within_limits_in_one_command(finished):
    folder, _ = finished
    exported = json.loads(invoke("export", "--run", folder, "--max-params", "300k", "--json"))
    assert exported["params"] <= 300e3
    assert json.loads((folder / "search.json").read_text())["limits"] == {"params": 300e3}
    with pytest.raises(InputError, match="got limits and another"):
        invoke("export", "--run", folder, "--max-params", "300k", "--architecture", "0:0000")


def test_limits_that_none_keeps_and_wishes_that_do_not_fit(finished):
    folder, _ = finished
    with pytest.raises(InfeasibleError, match="limits that one of the .* rated architectures keeps"):
        invoke("search", folder, "--limit", "params=3")
    with pytest.raises(InputError, match="expected one of params, madds, memory"):
        invoke("search", folder, "--limit", "watts=3")
    with pytest.raises(InputError, match="has no fronts"):
        invoke("search", folder, "--front", "params")
    with pytest.raises(InputError, match="expected a loss of error for this method"):
        invoke("rate", "--run", folder, "--loss", "mse")
    with pytest.raises(InputError, match="expected a space of AutoFormer or BigNAS, got mbconv-mini"):
        invoke("train", "--method", "prenas", "--space", "mbconv-mini", "--run", folder.parent / "other")
