"""Weights kept at chosen epochs, what a search finds there, and networks rated alone."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from pynas import export, runs, search, tabular
from pynas.cli import main
from pynas.errors import InputError
from pynas.rating import Scores
from pynas.runs.correlate import correlate_with, rated_by, run_bench
from pynas.runs.retrain import Request
from pynas.runs.spent import search_cost
from pynas.runs.stability import stability
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT

FEW = {"data": "digits", "limit_images": 100, "batch_size": 25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three epochs of which two are kept, rated."""
    folder = tmp_path_factory.mktemp("stability") / "run"
    run = runs.create(folder, **FEW, epochs=3, keep_epochs=[1, 2])
    run.train()
    run.rate("relative_l1")
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def weights(path):
    return {name: value for name, value in read_tensors(path, CHECKPOINT).tensors.items() if name.startswith("model.")}


def test_kept_weights_are_those_of_a_training_of_so_many_epochs(copy, tmp_path):
    """DNA's rates depend on the epoch alone, so two epochs of three are a training of two."""
    short = tmp_path / "short"
    run = runs.create(short, **FEW, epochs=2)
    shutil.copy(copy / "teacher.safetensors", short)
    run.train()
    kept, last = (
        weights(copy / "checkpoints" / "epoch_2.safetensors"),
        weights(short / "checkpoints" / "last.safetensors"),
    )
    assert kept.keys() == last.keys() and all(torch.equal(kept[name], last[name]) for name in kept)
    assert not any(
        name.startswith("optimizer.")
        for name in read_tensors(copy / "checkpoints" / "epoch_2.safetensors", CHECKPOINT).tensors
    )


def test_each_epoch_is_rated_and_searched_as_the_last_is(copy):
    run = runs.load(copy)
    content = stability(run, {"madds": 15e6})
    assert [row["epoch"] for row in content["epochs"]] == [1, 2, 3] and content["limits"] == {"madds": 15e6}
    rng = np.random.default_rng(9)
    drawn = [run.space.sample(rng) for _ in range(500)]
    last = run.rate("relative_l1")
    for row in content["epochs"]:
        method = (run.trained_method() if row["epoch"] == 3 else run.method_after(row["epoch"]))[0]
        scores = method.rate(run.loader("val"), loss="relative_l1", norm="batch")
        found = search.best(scores, run.costs, {"madds": 15e6})[0]
        assert row["found"] == run.space.format(found.architecture) and row["score"] == pytest.approx(found.score)
        tau = kendalltau(scores.total(drawn), last.total(drawn)).statistic
        assert row["tau_to_last"] == pytest.approx(tau, abs=0.06) and row["accuracy"] is None
    losses = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    first = [
        sum(value for name, value in step["losses"].items() if name != "head") for step in losses if step["epoch"] == 1
    ]
    assert content["epochs"][0]["loss"] == pytest.approx(np.mean(first))
    assert {path.name for path in copy.glob("stability.*")} == {"stability.json", "stability.png", "stability.svg"}
    # Once more: nothing is rated again.
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("block_*.npz")}
    assert stability(runs.load(copy), {"madds": 15e6}) == content
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("block_*.npz")} == before


def test_epochs_are_rated_as_the_last_weights_are(copy):
    run = runs.load(copy)
    first = stability(run)["epochs"]
    run.rate("mse")
    second = stability(runs.load(copy))["epochs"]
    for epoch, before, after in zip((1, 2), first, second):
        scores = run.method_after(epoch)[0].rate(run.loader("val"), loss="mse", norm="batch")
        assert after["score"] == pytest.approx(search.best(scores, run.costs)[0].score) != before["score"]


def test_scores_of_several_seeds_are_standardised_and_averaged(copy):
    run = runs.create(copy, seeds=2)
    run.train()
    networks = [run.space.sample(np.random.default_rng(seed)) for seed in range(5)]
    each = [member.recipe.score(member, networks, "mse", "batch") for member in run.members()]
    expected = np.mean([(scores - scores.mean()) / scores.std() for scores in each], axis=0)
    np.testing.assert_allclose(run.score(networks, "mse"), expected, rtol=1e-6)


def test_a_progressive_training_is_not_compared(tmp_path):
    options = {"strategy": "progressive-b"}
    run = runs.create(tmp_path / "run", **FEW, epochs=4, keep_epochs=[1], options=options)
    run.train()
    with pytest.raises(InputError, match="blocks that train at a time, got strategy=progressive-b"):
        stability(run)
    method, _ = run.method_after(1)
    with pytest.raises(InputError, match="a block up to 1, which the training has come to, got 2"):
        method.rate_block(run.loader("val"), 1)


def test_accuracies_of_the_users_file(copy, tmp_path):
    run = runs.load(copy)
    found = [row["found"] for row in stability(run)["epochs"]]
    others = {run.space.format(run.space.sample(np.random.default_rng(seed))): 50 + seed for seed in range(5)}
    rows = {**others, found[-1]: 91.5}
    truth = tmp_path / "truth.csv"
    truth.write_text("architecture,accuracy\n" + "".join(f'"{name}",{value}\n' for name, value in rows.items()))
    content = stability(runs.load(copy), truth=truth)["epochs"]
    assert content[-1]["accuracy"] == 91.5
    totals = run.rate("relative_l1").total([run.space.parse(name) for name in rows])
    assert content[-1]["accuracy_tau"] == pytest.approx(kendalltau(-totals, list(rows.values())).statistic)


def prefer(folder, architecture):
    """Change stored scores so that a search finds this architecture."""
    scores = Scores.load(folder)
    for block, choice in zip(scores, architecture):
        block[choice.cell].scores[choice.path] = -1
    scores.save(folder)


def test_what_is_found_is_retrained_once(copy):
    run, training = runs.load(copy), Request(recipe="small", epochs=1, batch_size=20)
    first = stability(run)["epochs"]
    assert [row["accuracy"] for row in first] == [None] * 3 == [row["retraining"] for row in first]
    one, other = (run.space.sample(np.random.default_rng(seed)) for seed in (1, 2))
    found = {"epoch_1": one, "epoch_2": other, ".": one}
    for name, architecture in found.items():
        prefer(copy / "scores" / name, architecture)
    rows = stability(run, training=training)["epochs"]
    assert [run.space.parse(row["found"]) for row in rows] == list(found.values())
    folders = [row["retraining"] for row in rows]
    assert folders[0] == folders[2] and [name[:11] for name in folders] == ["stability-1", "stability-2", "stability-1"]
    assert sorted(path.name for path in (copy / "retraining").iterdir()) == sorted(folders[:2])
    data = run.other_images("digits", 32, val_fraction=0.0, limit=100)
    for row, architecture in zip(rows, found.values()):
        model, metadata = export.load_subnet(copy / "retraining" / row["retraining"] / "subnet.safetensors")
        assert run.space.parse(metadata["architecture"]) == architecture
        assert row["accuracy"] == pytest.approx(100 * export.evaluate(model, data)["top1"])


def test_finished_retrainings_stay_and_stopped_ones_go_on(copy):
    run, training = runs.load(copy), Request(recipe="small", epochs=2, batch_size=20)
    rows = stability(run, training=training)["epochs"]
    (copy / "retraining" / rows[-1]["retraining"] / "report.json").unlink()  # stopped before it was measured
    before = {path: path.stat().st_mtime_ns for path in (copy / "retraining").rglob("last.safetensors")}
    assert len(before) == len({row["found"] for row in rows})
    assert stability(runs.load(copy), training=training)["epochs"] == rows
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # Another request has folders of its own, and a network whose accuracy is known is not trained.
    others = stability(runs.load(copy), training=Request(recipe="small", epochs=1, batch_size=20))["epochs"]
    assert not {row["retraining"] for row in others} & {row["retraining"] for row in rows}
    truth = copy / "truth.csv"
    known = {rows[-1]["found"]: 77} | {
        run.space.format(run.space.sample(np.random.default_rng(seed))): 1 for seed in (1, 2)
    }
    truth.write_text("architecture,accuracy\n" + "".join(f'"{name}",{value}\n' for name, value in known.items()))
    last = stability(runs.load(copy), truth=truth, training=Request(recipe="small", epochs=3))["epochs"][-1]
    assert (last["accuracy"], last["retraining"]) == (77, None)


def test_the_command_draws_what_was_retrained(copy, capsys, monkeypatch):
    words = ["stability", str(copy), "--max-madds", "15M", "--retrain", "small", "--epochs", "1", "--batch-size", "20"]
    monkeypatch.setattr("sys.argv", ["pynas", *words])
    with pytest.raises(SystemExit) as end:
        main()
    text = capsys.readouterr().out
    assert not end.value.code and "its accuracy" in text
    assert "<!-- accuracy of the network found" in (copy / "stability.svg").read_text()
    monkeypatch.setattr("sys.argv", ["pynas", "stability", str(copy), "--epochs", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "expected --retrain RECIPE beside --epochs" in capsys.readouterr().err


def test_bossnas_rates_the_epochs_while_it_trains(tmp_path):
    options = {"hidden": 8, "dim": 4, "head_epochs": 1}
    run = runs.create(tmp_path / "run", method="bossnas", **FEW, epochs=2, keep_epochs="1", options=options)
    run.train()
    content = stability(run)["epochs"]
    assert [row["epoch"] for row in content] == [1, 2] and all(row["loss"] > 0 for row in content)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep_epochs": [4]}, r"expected keep_epochs in 1..3, got \[4\]"),
        ({"keep_epochs": "1,0"}, "expected keep_epochs.1 to be greater than or equal to 1"),
        ({"keep_epochs": "one"}, "expected keep_epochs.0 to be a valid integer"),
    ],
)
def test_epochs_out_of_range_are_named(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        runs.create(tmp_path / "run", **FEW, epochs=3, **given)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_compared_is_named(copy, tmp_path):
    with pytest.raises(InputError, match="a method that rates paths, got spos"):
        stability(runs.create(tmp_path / "spos", method="spos", **FEW))
    for path in (copy / "checkpoints").glob("epoch_*"):
        path.unlink()
    shutil.rmtree(copy / "scores" / "epoch_1", ignore_errors=True)
    with pytest.raises(InputError, match="weights of epochs before the last, got none"):
        stability(runs.load(copy))
    with pytest.raises(InputError, match="expected weights of epoch 2, got no"):
        runs.load(copy).method_after(2)


def test_scores_against_networks_of_ones_own(copy, tmp_path):
    run = runs.load(copy)
    rng = np.random.default_rng(2)
    truth = {run.space.sample(rng): float(rng.random()) for _ in range(8)}
    file = tmp_path / "trained.csv"
    file.write_text(
        "architecture,accuracy\n" + "".join(f'"{run.space.format(a)}",{value!r}\n' for a, value in truth.items())
    )
    stored = correlate_with(run, file, None, None, None)
    alone = correlate_with(run, file, "mse", None, tmp_path / "drawn")
    for content, loss in ((stored, "relative_l1"), (alone, "mse")):
        scores = run.trained_method()[0].rate(run.loader("val"), loss=loss, norm="batch").total(truth)
        assert content["everything"]["scores"]["tau"] == pytest.approx(
            kendalltau(-scores, list(truth.values())).statistic
        )
        assert content["rated_alone"] == (loss == "mse") and content["networks"] == 8
    sizes = [run.costs.of(a)["madds"] for a in truth]
    assert stored["everything"]["madds"]["tau"] == pytest.approx(kendalltau(sizes, list(truth.values())).statistic)
    assert (copy / "ranking-trained.png").exists() and alone["pictures"] == [
        f"{tmp_path}/drawn.png",
        f"{tmp_path}/drawn.svg",
    ]


def test_the_time_of_a_run_beside_networks_of_ones_own(copy, tmp_path, capsys, monkeypatch):
    run, file = runs.load(copy), tmp_path / "trained.csv"
    names = [run.space.format(run.space.sample(np.random.default_rng(seed))) for seed in range(4)]
    file.write_text("architecture,accuracy\n" + "".join(f'"{name}",{value}\n' for value, name in enumerate(names)))
    for more in ((), ("--json",)):
        monkeypatch.setattr("sys.argv", ["pynas", "correlate", str(copy), "--truth", str(file), *more])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr().out
        assert json.loads(said)["search_cost"] == search_cost(copy) if more else "Search cost: " in said


def test_networks_alone_have_the_scores_of_the_whole_rating(copy):
    run = runs.load(copy)
    networks = [run.space.sample(np.random.default_rng(seed)) for seed in range(6)]
    np.testing.assert_allclose(run.score(networks, "relative_l1"), run.rate("relative_l1").total(networks), rtol=1e-6)
    with pytest.raises(InputError, match="expected a loss of"):
        run.score(networks, "zen")


@pytest.mark.parametrize("method", ["spos", "pinas", "prenas"])
def test_networks_alone_by_their_error(tmp_path, method):
    options = (
        {"linear_epochs": 1} if method == "pinas" else {"interval": "150k", "images": 2} if method == "prenas" else {}
    )
    run = runs.create(tmp_path / "run", method=method, **FEW, epochs=1, options=options)
    run.train()
    networks = [run.space.sample(np.random.default_rng(seed)) for seed in range(2)]
    errors = run.score(networks)
    assert errors.shape == (2,) and ((errors >= 0) & (errors <= 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dna", "spos"])
def test_the_23_networks_are_ranked_by_a_supernet_that_rated_nothing_else(tmp_path, method, capsys, monkeypatch):
    run = runs.create(tmp_path / "run", method=method, space="mbconv-boss", image_size=64, **FEW, epochs=1)
    run.train()
    bench = tabular.load(run_bench(run, None))
    rated = rated_by(run, bench, "relative_l1" if method == "dna" else None, None)
    assert rated.values.shape == (23,) and np.isfinite(rated.values).all() and "of these networks alone" in rated.source
    words = ["correlate", tmp_path / "run", "--bench", "mbconv-23", "--picture", tmp_path / "ranks"]
    monkeypatch.setattr("sys.argv", ["pynas", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and re.search(rf"\| {method} \| [\d.e-]+ h CPU \| τ", capsys.readouterr().out)
    with pytest.raises(InputError, match="expected a run of the space of nats-size, got mbconv-boss"):
        run_bench(run, "nats-size")
