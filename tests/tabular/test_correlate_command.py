"""`pynas correlate` and its pictures."""

import json
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import kendalltau
from typer.testing import CliRunner

from pynas import runs
from pynas.cli import app, main
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.export import standalone
from pynas.files import header, write_json
from pynas.rating import Scores
from pynas.report import draw_ranking, draw_rankings
from pynas.report.statistics import statistics_figure
from pynas.runs.spent import FILE, SPENT
from pynas.spaces import get
from pynas.tabular import load, load_path_scores, published_scores

pytestmark = pytest.mark.integration


def invoke(*words):
    result = CliRunner().invoke(app, ["correlate", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_published_scores_of_mbconv(tmp_path):
    text = invoke("--bench", "mbconv-23", "--scores", "published", "--picture", tmp_path / "ranks")
    assert all(part in text for part in ("0.6468", "0.7771", "0.8470", "parameters", "MAdds", "random", "75.52 %"))
    assert {path.name for path in tmp_path.iterdir()} == {"ranks.png", "ranks.svg"}


def test_what_is_found_under_budgets(tmp_path):
    options = ["--bench", "mbconv-23", "--picture", tmp_path / "ranks", "--resamples", 2]
    text = invoke(*options)
    assert "10 budgets: 324.43M MAdds (1 within) to 486.89M (all 23)" in " ".join(text.split())
    rows = {
        line.split("│")[1].strip(): line.split()
        for line in text.split("nDCG@10")[1].splitlines()
        if "%" in line and "│" in line
    }
    assert list(rows) == ["scores", "parameters", "MAdds", "sum of log", "random"]
    assert [rows["scores"][i] for i in (3, 5, 8, 10, 12)] == ["0.999", "74.55", "-0.13", "+0.35", "-0.04"]
    assert [rows["random"][i] for i in (10, 12)] == ["+0.00", "-0.39"] and rows["MAdds"][12] == "+0.00"
    assert max(map(len, text.split("in points:")[1].split("budget.")[1].split("Accuracies:")[0].splitlines())) <= 80
    content = json.loads(invoke(*options, "--budgets", 4, "--budget-cost", "params", "--ndcg", 3, "--json"))
    assert content["budgets"]["cost"] == "params" and len(content["budgets"]["limits"]) == 4 and content["ndcg_k"] == 3
    assert content["regret"]["params"]["minus_largest"] == 0 and len(content["regret"]["scores"]["found"]) == 4
    assert 0 < content["ndcg"]["random"] < content["ndcg"]["scores"]


def test_few_networks_are_cautioned_against(tmp_path):
    bench, path = load("mbconv-23"), tmp_path / "five.csv"
    lines = [f"{name},{number}" for number, name in enumerate(bench.architectures[:5])]
    path.write_text("\n".join(["architecture,score", *lines]))
    options = ["--bench", "mbconv-23", "--picture", tmp_path / "ranks", "--resamples", 2]
    assert "Only 5 networks" in invoke(*options, "--scores", path) and "Only" not in invoke(*options)


def test_json_holds_what_the_table_shows(tmp_path):
    stem = tmp_path / "ranks"
    content = json.loads(invoke("--bench", "nats-size", "--above", 92, "--resamples", 20, "--picture", stem, "--json"))
    assert content["count"] == 8050 and content["data"] == "cifar10" and content["lower_is_better"]
    assert round(content["everything"]["log_width"]["tau"], 3) == 0.570
    assert content["pictures"] == [f"{stem}.png", f"{stem}.svg"]
    assert "NATS-Bench" in content["source"] and content["scores"] == "published by BossNAS"


def test_scores_of_a_file_where_more_is_better(tmp_path):
    bench, path = load("mbconv-23"), tmp_path / "accuracy.csv"
    lines = [f"{name},{value}" for name, value in zip(bench.architectures[:12], bench.accuracy)]
    path.write_text("\n".join(["architecture,score", *lines]))
    options = ["--bench", "mbconv-23", "--scores", path, "--picture", tmp_path / "ranks", "--json"]
    content = json.loads(invoke(*options, "--higher-is-better"))
    assert content["count"] == 12 and content["everything"]["scores"]["tau"] == pytest.approx(1)
    assert json.loads(invoke(*options))["everything"]["scores"]["tau"] == pytest.approx(-1)


def test_rankings_side_by_side(tmp_path):
    bench, path = load("mbconv-23"), tmp_path / "other.csv"
    lines = [f"{name},{-value}" for name, value in zip(bench.architectures[:20], bench.accuracy)]
    path.write_text("\n".join(["architecture,score", *lines]))
    stem = tmp_path / "all"
    options = [
        "--bench",
        "mbconv-23",
        "--plot",
        "side-by-side",
        "--beside",
        f"other={path}",
        "--picture",
        stem,
        "--json",
    ]
    assert json.loads(invoke(*options))["pictures"] == [f"{stem}.png", f"{stem}.svg"]
    labels = ("published by BossNAS", "other", "parameters", "MAdds", "random")
    svg = ElementTree.parse(f"{stem}.svg")
    lines = [node for node in svg.iter() if node.get("id", "").startswith("line2d") and node.get("id") != "line2d"]
    comments = (tmp_path / "all.svg").read_text()
    assert all(f"<!-- {label}" in comments for label in labels)
    # tau as the command's table has it, and 1 for scores that are the accuracies.
    assert "Kendall τ 0.647" in comments and "Kendall τ 1.000" in comments
    assert len(lines) >= 4 * 23 + 20
    assert imread(f"{stem}.png").shape[1] > 1400


def test_rankings_of_too_many_or_too_few_are_refused(tmp_path):
    with pytest.raises(InputError, match="at most 100 architectures, got 1 of 101"):
        draw_rankings(tmp_path / "r", {"a": np.arange(101.0)}, np.arange(101.0))
    with pytest.raises(InputError, match="at least two architectures with a value of 'a', got 1"):
        draw_rankings(tmp_path / "r", {"a": np.array([1.0, np.nan])}, np.arange(2.0))


def test_baselines_alone(tmp_path):
    options = ["--bench", "nasbench201", "--without", "none,skip_connect", "--picture", tmp_path / "ranks"]
    text = invoke(*options)
    assert "729 architectures" in text and "convolution parameters" in text and "none given" in text


def test_statistics_of_a_benchmark(tmp_path):
    bench, stem = load("mbconv-23"), tmp_path / "all"
    runs.create(tmp_path / "run", method="dna", space="mbconv-boss", teacher="small")  # needs no scores
    for words in (["--bench", "mbconv-23"], [tmp_path / "run"]):
        content = json.loads(invoke(*words, "--plot", "statistics", "--picture", stem, "--json"))
        assert content["count"] == 23 and content["accuracy"]["least"] == 73.58 and content["accuracy"]["most"] == 75.52
        assert content["accuracy"]["mean"] == pytest.approx(sum(bench.accuracy) / 23)
        assert content["pictures"] == [f"{stem}.png", f"{stem}.svg"]
        # Counted on the networks themselves.
        counted = [
            count_module(standalone(get("mbconv-boss"), name, 1000), (3, 224, 224))[0]
            for name in bench.architectures[:2]
        ]
        for name in ("params", "madds"):
            assert all(content[name]["least"] <= one[name] <= content[name]["most"] for one in counted)
    # tau as the table of baselines has it.
    comments = (tmp_path / "all.svg").read_text()
    assert "Kendall τ 0.708" in comments and "Kendall τ 0.755" in comments and "on imagenet" in comments
    text = invoke("--bench", "nats-size", "--above", 92, "--plot", "statistics", "--picture", tmp_path / "nats")
    assert "8,050 architectures" in text and "93.65 % top-1" in text
    assert imread(tmp_path / "nats.png").shape[1] > 1400 and (tmp_path / "nats.svg").stat().st_size < 1_000_000


def test_statistics_are_points_or_a_density():
    rng = np.random.default_rng(0)
    for count in (100, 101):
        accuracy, cost = rng.normal(90, 1, count), rng.uniform(1e6, 2e6, count)
        histogram, axes, *_ = statistics_figure(accuracy, {"params": cost}).axes
        assert sum(bar.get_height() for bar in histogram.patches) == count
        (drawn,) = axes.collections
        if count == 100:
            assert np.array_equal(drawn.get_offsets(), np.stack([cost, accuracy], 1))
        else:
            assert drawn.get_array().sum() == count and len(drawn.get_array()) < count
        assert (
            axes.get_xlabel() == "parameters" and axes.get_title() == f"Kendall τ {kendalltau(cost, accuracy)[0]:.3f}"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bench", "nats"], "[tabular] expected one of nats-size, mbconv-23, nasbench201, got 'nats'"),
        (["--bench", "nasbench201", "--scores", "published"], "for which none are published"),
        (["--bench", "mbconv-23", "--scores", "missing.csv"], "expected a CSV file, got nothing at missing.csv"),
        (["--bench", "mbconv-23", "--plot", "bars"], "expected --plot ranking, statistics, or side-by-side"),
        (
            ["--bench", "mbconv-23", "--plot", "statistics", "--beside", "a=b.csv"],
            "side-by-side with --beside or without",
        ),
        (["--bench", "mbconv-23", "--plot", "statistics", "--proxy", "zen"], "of a benchmark alone, without --scores"),
        (["--bench", "mbconv-23", "--plot", "side-by-side", "--beside", "spos"], "--beside NAME=FILE.csv, got 'spos'"),
        (["--bench", "mbconv-23", "--above", "99"], "at least one of its 23 rows, got none"),
        (["--bench", "mbconv-23", "--budget-cost", "flops"], "budgets of params or madds for mbconv-23, got 'flops'"),
        (["--bench", "mbconv-23", "--budgets", "1"], "[budgets] expected at least two"),
        (["--bench", "mbconv-23", "--ndcg", "0"], "[ndcg] expected k of at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pynas", "correlate", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("pynas: [") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mbconv-23", "nats-size"])
def test_pictures_are_drawn_and_open(tmp_path, name):
    bench = load(name)
    png, svg = draw_ranking(tmp_path / "r", published_scores(bench), bench.accuracy, title="a title")
    pixels = imread(png)
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1400 and np.ptp(pixels[..., 0]) == 1
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert svg.stat().st_size < 1_000_000


def refused(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["pynas", "correlate", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_scores_of_a_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run = runs.create(folder, method="bossnas", space="nats-size")
    words = ["--bench", "nats-size", "--scores", str(folder)]
    assert "expected the scores of every block, got none of some in" in refused(monkeypatch, capsys, *words)
    published = load_path_scores("nats-size").tables
    tables = [[block[0]] * len(cells) for block, cells in zip(published, run.space.blocks)]
    Scores(run.space, tables).save(folder / "scores")
    content = json.loads(invoke(*words, "--json", "--picture", tmp_path / "drawn", "--resamples", 2))
    assert round(content["everything"]["scores"]["tau"], 3) == 0.534 and content["scores"] == str(folder)
    # Without a record of its time, and with one.
    of_run = [folder, "--picture", tmp_path / "drawn", "--resamples", 2]
    assert "search_cost" not in json.loads(invoke(*of_run, "--json")) and "| bossnas | τ 0.53 |" in invoke(*of_run)
    session = {"stage": "train", "device": "CPU", "processes": 2, "seconds": 1000.0}
    write_json(folder / FILE, header(SPENT) | {"sessions": [session, session | {"stage": "rate", "seconds": 440.0}]})
    cost = {"train_seconds": 1000, "rate_seconds": 440, "device": "CPU", "processes": 2}
    assert json.loads(invoke(*of_run, "--json"))["search_cost"] == cost
    assert "| bossnas | 0.4 h CPU (2 processes) | τ 0.53 |" in invoke(*of_run)
    words[1] = "mbconv-23"
    assert "expected a run of the space of mbconv-23, got nats-size in" in refused(monkeypatch, capsys, *words)
