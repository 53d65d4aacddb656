"""`pynas search --prior` and `pynas calibrate`, from files to files."""

import json

import numpy as np
import pytest
from scipy import stats

from pynas import costs, export, runs, search, spaces, tabular, zero_cost
from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.rating import Scores
from pynas.runs import proxy_cost
from pynas.runs.calibrate import Calibrating, calibrate
from pynas.runs.correlate import rank
from pynas.runs.run import Request
from pynas.runs.search import find_exactly

pytestmark = pytest.mark.integration


def test_a_search_with_a_prior(run_copy, pynas):
    words = ["search", run_copy, "--max-madds", "60%", "--prior", "log-width"]
    content = pynas(*words, "--prior-weight", 2, "--json")
    space = spaces.get("mbconv-mini")
    scores, counted = Scores.load(run_copy / "scores", space), costs.load(run_copy / "costs.npz")
    joined = search.with_prior(scores, counted | costs.load(run_copy / "log_width.npz"), "log_width", 2)
    expected = search.best(joined, counted, content["limits"], 5)
    assert [entry["score"] for entry in content["found"]] == pytest.approx([entry.score for entry in expected])
    assert content["prior"] == {"cost": "log_width", "weight": 2.0, "auto": False}
    assert json.loads((run_copy / "search.json").read_text()) == content
    # One seed: the weight is 1, and a line says why.
    text = pynas(*words)
    assert "with one seed the agreement that chooses the weight is not known, so that it is 1" in " ".join(text.split())
    # The page ranks by the scores of the search, and repeats its command.
    truth = run_copy / "truth.csv"
    nets = [space.sample(np.random.default_rng(seed)) for seed in range(8)]
    truth.write_text("\n".join(["architecture,accuracy", *(f"{net},{50 + k}" for k, net in enumerate(nets))]))
    pynas("report", run_copy, "--truth", truth)
    page = (run_copy / "report.html").read_text()
    auto = search.with_prior(scores, counted | costs.load(run_copy / "log_width.npz"), "log_width", 1)
    tau = stats.kendalltau(-auto.total(nets), np.arange(8)).statistic
    assert f"<td>{tau:.4f}</td>" in page and "--prior log-width --prior-weight auto" in page
    assert "as prior" in page


def test_a_search_with_a_proxy_as_prior(run_copy, pynas, monkeypatch):
    monkeypatch.setattr(proxy_cost, "NETWORKS", 12)
    words = ["search", run_copy, "--max-madds", "60%", "--prior", "az-nas", "--prior-weight", 2]
    content = pynas(*words, "--json")
    space = spaces.get("mbconv-mini")
    scores, counted = Scores.load(run_copy / "scores", space), costs.load(run_copy / "costs.npz")
    fitted = costs.load(run_copy / "proxy-az_nas.npz")
    expected = search.best(search.with_prior(scores, counted | fitted, "az_nas", 2), counted, content["limits"], 5)
    assert [entry["score"] for entry in content["found"]] == pytest.approx([entry.score for entry in expected])
    assert content["prior"]["fitted"] == fitted.metadata["fitted"]["az_nas"]
    # The values are those of the networks, aggregated among each other.
    rows = read_csv_file("proxy", run_copy / "proxy-az_nas.csv", ["architecture", *zero_cost.AGGREGATES["az_nas"]]).rows
    joined = zero_cost.aggregate({name: [float(row[name]) for row in rows] for name in zero_cost.AGGREGATES["az_nas"]})
    networks = [space.parse(row["architecture"]) for row in rows]
    again = costs.fitted(space, "az_nas", networks, joined)
    assert len(rows) == 12 and again.of(networks[0]) == pytest.approx(fitted.of(networks[0]))
    # It is scored once, and a line says what the prior is.
    monkeypatch.setattr(zero_cost, "score_networks", None)
    assert "fitted to 12 networks with fresh weights" in " ".join(pynas(*words).split())


def test_an_unknown_prior_is_refused_before_anything_is_trained(tmp_path, pynas):
    with pytest.raises(InputError, match="expected --prior params, .*got 'width'"):
        pynas("run", "--run", tmp_path / "run", "--prior", "width")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, text", [
    (("--prior", "width"), "latency, log_width, parameters, .*vkdnw_agg, got 'width'"),
    (("--prior-weight", "2"), "expected --prior beside --prior-weight 2.0"),
    (("--prior", "madds", "--prior-weight", "-1"), "auto or a number of 0 or more, got '-1'"),
    (("--prior", "madds", "--prior-weight", "nan"), "got 'nan'"),
    (("--prior", "madds", "--join", "product"), "expected join sum"),
    (("--prior", "madds", "--calibrated"), "got both"),
    (("--calibrated",), "run `pynas calibrate"),
])  # fmt: skip
def test_refused_searches(run_copy, pynas, words, text):
    with pytest.raises(InputError, match=text):
        pynas("search", run_copy, *words)


def test_calibrate_trains_goes_on_and_the_search_uses_it(run_copy, pynas, monkeypatch):
    words = [
        "calibrate",
        run_copy,
        "--train",
        5,
        "--epochs",
        1,
        "--batch-size",
        32,
        "--choose",
        "random",
        "--model",
        "gp",
    ]
    real, trained = export.retrain, []

    def stopped(*args, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(options["run"])
        return real(*args, **options)

    monkeypatch.setattr(export, "retrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(runs.load(run_copy), Calibrating(train=5, epochs=1, batch_size=32, choose="random"))
    kept = json.loads((run_copy / "calibration" / "trainings.json").read_text())["accuracies"]
    assert len(kept) == 3
    monkeypatch.setattr(export, "retrain", lambda *a, **o: (trained.append(o["run"]), real(*a, **o))[1])
    # Networks of two epochs of noise may all be as good: the accuracies of those kept are set apart.
    file = run_copy / "calibration" / "trainings.json"
    content = json.loads(file.read_text())
    content["accuracies"] = {name: 60.0 + k for k, name in enumerate(kept)}
    file.write_text(json.dumps(content))
    found = pynas(*words, "--json")
    assert len(trained) == 5 and len(set(trained)) == 5
    assert {name: found["accuracies"][name] for name in kept} == content["accuracies"]
    assert found["networks"] == 5 and found["source"] == "trained in the run"
    assert -1 <= found["tau_interval"][0] <= found["tau_interval"][1] <= 1
    listed = pynas("search", run_copy, "--calibrated", "--max-madds", "80%", "--json")
    predictions = [entry["predicted"] for entry in listed["found"]]
    assert predictions == sorted(predictions, reverse=True) and listed["calibrated"]["model"] == "gp"
    fitted = Scores.load(run_copy / "calibration" / "scores", spaces.get("mbconv-mini"))
    exact = search.best(fitted, costs.load(run_copy / "costs.npz"), listed["limits"], 5)
    assert {entry["architecture"] for entry in listed["found"]} == {str(entry.architecture) for entry in exact}
    assert "not exact" in pynas("search", run_copy, "--calibrated")
    pynas("report", run_copy)
    assert "--calibrated" in (run_copy / "report.html").read_text()
    with pytest.raises(InputError, match="epochs = 1"):
        pynas("calibrate", run_copy, "--train", 5, "--epochs", 2, "--batch-size", 32, "--choose", "random")


def test_calibrate_by_a_file(run_copy, pynas):
    space, rng = spaces.get("mbconv-mini"), np.random.default_rng(0)
    counted = costs.load(run_copy / "costs.npz")
    nets = list(dict.fromkeys(space.sample(rng) for _ in range(30)))
    truth = run_copy / "truth.csv"
    rows = [f"{net},{counted.of(net)['params'] / 1e4}" for net in nets]
    truth.write_text("\n".join(["architecture,accuracy", *rows]))
    content = pynas("calibrate", run_copy, "--truth", truth, "--train", 12, "--json")
    assert content["networks"] == 12 and set(content["accuracies"]) <= {str(net) for net in nets}
    # Accuracies that are the parameters: found again, on networks left out.
    assert content["tau"] > 0.7 > content["uncalibrated_tau"]
    assert "weights in points of accuracy" in pynas("calibrate", run_copy, "--truth", truth, "--train", 12).lower()
    with pytest.raises(InputError, match="expected 31 networks within the limits, got 30"):
        pynas("calibrate", run_copy, "--truth", truth, "--train", 31)
    with pytest.raises(InputError, match="at least 5 networks"):
        pynas("calibrate", run_copy, "--truth", truth, "--train", 4)
    with pytest.raises(InputError, match="published accuracies, got mbconv-mini"):
        pynas("calibrate", run_copy, "--truth", "published")
    # Rated anew: the fit is of other scores.
    pynas("rate", "--run", run_copy, "--loss", "cosine")
    with pytest.raises(InputError, match="run `pynas calibrate .*` again"):
        pynas("search", run_copy, "--calibrated")


def test_published_accuracies_and_a_ranking(tmp_path, half_images, pynas):
    run = runs.create(tmp_path / "run", method="bossnas", space="nats-size", data=str(half_images), batch_size=16)
    published = tabular.load_path_scores("nats-size")
    Scores(run.space, [[table] * len(cells) for (table,), cells in zip(published, run.space.blocks)]).save(
        run.folder / "scores"
    )
    # Costs by hand, which take no time to count.
    widths = np.arange(8, 65, 8)
    tables = [[sum(np.ix_(*[widths] * len(cell.counts))) for cell in cells] for cells in run.space.blocks]
    logs = [[sum(np.ix_(*[np.log(widths)] * len(cell.counts))) for cell in cells] for cells in run.space.blocks]
    costs.Costs({"params": tables, "madds": tables}, {"params": 0, "madds": 0}).save(run.folder / "costs.npz")
    costs.Costs({"log_width": logs}, {"log_width": 0.0}).save(run.folder / "log_width.npz")
    content = calibrate(run, Calibrating(truth="published", train=8, limits={"madds": "70%"}))
    bench = tabular.load("nats-size")
    for name, accuracy in content["accuracies"].items():
        assert accuracy == pytest.approx(bench.accuracy[bench.index(name)])
        assert run.costs.of(run.space.parse(name))["madds"] <= 0.7 * 5 * 64
    found = find_exactly(run, Request(prior="log-width", prior_weight=3))
    ranking = rank(run)
    # Of the rating alone it is 0.534.
    assert ranking["correlation"]["everything"]["scores"]["tau"] > 0.7
    first = (run.folder / "ranking.csv").read_text().splitlines()[1].split(",")
    assert first[0] == found["found"][0]["architecture"] and float(first[1]) == pytest.approx(
        found["found"][0]["score"]
    )
