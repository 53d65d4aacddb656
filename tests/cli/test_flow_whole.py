"""Methods on whole networks from the command line: Pi-NAS, SPOS, FairNAS."""

import json

import numpy as np
import pytest
import torch
import yaml

import pynas as package
from pynas import export, spaces, tabular
from pynas.data import load
from pynas.errors import InputError
from pynas.evaluation.error_rate import ErrorRate
from pynas.files import read_json
from pynas.runs.recipes.by_trial import rate_all
from pynas.search.ratings import RATINGS
from tests.report.test_page import charts, numbers

pytestmark = pytest.mark.integration
TINY = ("--epochs", 1, "--batch-size", 16, "--option", "budget=5", "--option", "calibration_batches=2")


def run(pynas, half_images, folder, method, *more):
    return pynas("run", "--method", method, "--data", half_images, *TINY, *more, "--run", folder, "--json")


@pytest.mark.parametrize("method", ["pinas", "spos", "fairnas"])
def test_a_run_finds_and_exports(pynas, half_images, tmp_path, method):
    options = ("--option", "linear_epochs=1", "--option", "queue_size=32") if method == "pinas" else ()
    folder = tmp_path / "run"
    report = run(pynas, half_images, folder, method, *options)
    found, space = report["search"]["found"], spaces.get("nasbench201-mini")
    ratings = read_json(next((folder / "ratings").glob("*.json")), RATINGS)
    assert report["search"]["rated"] == len(ratings["scores"]) == 5
    assert [entry["score"] for entry in found] == sorted(ratings["scores"])
    assert report["search"]["best_so_far"][-1] == found[0]["score"]
    assert report["search"]["limits"] == {}
    assert report["exported"]["architecture"] == found[0]["architecture"]
    model, metadata = export.load_subnet(folder / "subnet.safetensors", space)
    test = load(half_images, space.image_size).loader("test", 32)
    with torch.no_grad():
        right = [int((model(images).argmax(1) == labels).sum()) for images, labels in test]
    assert metadata["test_accuracy"] == report["exported"]["test_accuracy"] == sum(right) / 32
    assert (folder / "search.png").is_file() and (folder / "consistency.png").is_file()
    rows = tabular.read_scores(folder / "ratings.csv", tabular.load("nasbench201"))
    assert sorted(rows[~np.isnan(rows)]) == sorted(ratings["scores"])
    assert "Scores and costs" in pynas("report", folder, "--json")["sections"]
    rated, front, _ = charts((folder / "report.html").read_text(encoding="utf-8"))["architectures"][0]
    assert sorted(numbers(rated["y"])) == sorted(ratings["scores"])
    points = list(zip(numbers(rated["x"]), numbers(rated["y"])))
    assert sorted(set(zip(numbers(front["x"]), numbers(front["y"])))) == sorted(
        {p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)})  # fmt: skip
    # Searched again, everything is read: nothing trains and nothing is rated.
    before = (folder / "checkpoints" / "last.safetensors").stat().st_mtime_ns
    again = pynas("search", folder, "--json")
    assert again == report["search"]
    assert (folder / "checkpoints" / "last.safetensors").stat().st_mtime_ns == before
    text = pynas("search", folder)
    assert "The best of 5 that action-space rated" in text and found[0]["architecture"][:16] in text


def test_pi_nas_without_different_views_trains_on_one(pynas, half_images, tmp_path):
    options = ("--option", "augmented_views=false", "--option", "queue_size=32")
    pynas("train", "--method", "pinas", "--data", half_images, *TINY, *options, "--run", tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()


def test_every_search_and_the_methods_own_options(pynas, half_images, tmp_path):
    folder = tmp_path / "run"
    options = ("--option", "search=evolution", "--option", "label_smoothing=0.1")
    report = run(pynas, half_images, folder, "spos", *options)
    assert report["search"]["search"] == "evolution"
    assert yaml.safe_load((folder / "config.yaml").read_text())["options"]["label_smoothing"] == 0.1
    listed = pynas("methods", "--json")
    assert {"pinas", "spos", "fairnas"} <= set(listed) and listed["pinas"]["recipes"]["paper"]["cross_path"] == "true"


@pytest.mark.parametrize(
    "words, message",
    [
        (("--option", "search=best"), r"\[run\] expected search to be 'action-space'"),
        (("--option", "sampling=fair"), r"\[run\] expected options of"),
    ],
)
def test_wrong_options_are_refused(pynas, half_images, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        run(pynas, half_images, tmp_path / "run", "spos", *words)


def test_what_a_search_by_trial_does_not_know_is_refused(pynas, half_images, tmp_path):
    folder = tmp_path / "run"
    pynas("train", "--method", "spos", "--data", half_images, *TINY, "--run", folder)
    with pytest.raises(InputError, match=r"\[rate\] expected a loss of error for this method, got 'mse'"):
        pynas("rate", "--run", folder, "--loss", "mse")
    with pytest.raises(InputError, match=r"\[search\] expected limits alone"):
        pynas("search", folder, "--front", "madds")


def test_rating_everything_goes_on_where_it_was(tmp_path):
    space = spaces.nasbench201(n=1, channels=(4,), ops=("nor_conv_1x1", "skip_connect"), image_size=8)
    torch.manual_seed(0)
    net = package.supernet(space, 3)
    batch = [(torch.randn(8, 3, 8, 8), torch.randint(0, 3, (8,)))]
    partial, done = tmp_path / "partial.npz", []
    whole = rate_all(ErrorRate(net, batch, norm="batch"), partial, lambda done, total: None)
    assert len(whole) == 64 and not partial.exists()
    half = whole.scores.copy()
    half[0] = np.nan
    package.ScoreTable(half).save(partial)
    rating = ErrorRate(net, batch, norm="batch")
    again = rate_all(rating, partial, lambda n, total: done.append((n, total)))
    assert len(rating.known) == 32 and done == [(64, 64)]
    np.testing.assert_array_equal(again.scores, whole.scores)


@pytest.mark.slow
def test_all_cells_rated_then_searched_exactly(pynas, half_images, tmp_path):
    folder = tmp_path / "run"
    report = run(pynas, half_images, folder, "spos", "--option", "search=all")
    assert report["search"]["visited"] >= 1 and (folder / "scores" / "block_1.npz").is_file()
    assert json.loads((folder / "search.json").read_text())["found"] == report["search"]["found"]
