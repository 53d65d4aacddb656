"""`pynas select` from end to end, on the small AutoFormer space."""

import json

import pytest
from typer.testing import CliRunner

from pynas.cli import app, main
from pynas.spaces import get
from pynas.zero_cost import load_preferred

pytestmark = pytest.mark.integration


def invoke(*words):
    result = CliRunner().invoke(app, ["select", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_and_the_file_say_the_same(tmp_path):
    words = ["--space", "autoformer-mini", "--interval", "100k", "--images", 2, "--classes", 10, "--run", tmp_path]
    content = json.loads(invoke(*words, "--json"))
    seconds = content.pop("seconds")
    assert json.loads((tmp_path / "preferred.json").read_text()) == content and seconds["selection"] < 2
    space = get("autoformer-mini")
    members = load_preferred(tmp_path / "preferred.json", space).members
    assert [one.interval[0] for one in members] == [1e5, 2e5, 3e5, 4e5, 5e5]
    for entry, one in zip(content["architectures"], members):
        assert space.parse(entry["architecture"]) == one.architecture
        assert entry["depth"] == len(entry["heads"]) == len(entry["ratios"])
    again = json.loads(invoke(*words, "--json"))
    assert again["architectures"] == content["architectures"]
    shown = invoke(*words)
    assert "Preferred architectures of 10,752" in shown and "preferred.json" in shown


def test_latency_and_labelled_images(tmp_path):
    words = ["--space", "autoformer-mini", "--images", 2, "--classes", 10, "--run", tmp_path, "--json"]
    content = json.loads(invoke(*words, "--cost", "latency", "--interval", "1000ms", "--data", "digits"))
    (entry,) = content["architectures"]
    assert content["metadata"]["data"] == "digits" and 0 < entry["latency"] < 1000


def test_convolutional_networks(tmp_path):
    words = ["--space", "bignas-mini", "--cost", "madds", "--interval", "1M", "--images", 4, "--classes", 10]
    content = json.loads(invoke(*words, "--run", tmp_path, "--json"))
    members = load_preferred(tmp_path / "preferred.json", get("bignas-mini")).members
    assert [entry["architecture"] for entry in content["architectures"]] == [
        get("bignas-mini").format(one.architecture) for one in members
    ]
    assert all(low <= one.costs["madds"] < low + 1e6 for one in members for low in [one.interval[0]])
    assert members[-1].interval[1] > 2 * members[0].interval[1]
    assert content["metadata"]["normaliser"] is None and content["architectures"][0]["normalised"] is None
    assert content["architectures"][0]["architecture"] in invoke(*words, "--run", tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "bignas-mini", "--allocation", "exact"], "expected no allocation for bignas-mini"),
        (["--interval", "1"], "expected an architecture in every interval of params"),
        (["--interval", "10k", "--start", "5M"], "got none in [5e+06, 5.01e+06)"),
        (["--cost", "watts"], "expected cost to be 'params', 'madds', 'memory' or 'latency', got 'watts'"),
        (["--normaliser", "none"], "normaliser of layer, balance, snip"),
        (["--space", "mbconv-mini"], "expected a space of AutoFormer or BigNAS, got mbconv-mini"),
    ],
)
def test_bad_input_ends_with_one_line(words, message, tmp_path, monkeypatch, capsys):
    defaults = ["select", "--space", "autoformer-mini", "--images", "1", "--run", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["pynas", *defaults, *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("pynas: [select]") or said.startswith("pynas: [saliency]")
    assert message in said
    assert not list(tmp_path.iterdir())
