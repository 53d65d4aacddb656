"""What holds for every command: help with an example, JSON, completion; and `pynas run --dry-run`."""

import re

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pynas.cli import app, display
from pynas.spaces import get

pytestmark = pytest.mark.integration
COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_json_is_offered(name):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert "--json" in options
    examples = re.findall(r"`(pynas [^`]*)`", COMMANDS[name].help.split("Example:")[1])
    assert examples and examples[0].split()[1] == name
    for example in examples:
        own, _, other = example.partition(" -- ")
        assert {word for word in own.split() if word.startswith("--")} <= options
        if other:
            inner, *words = other.split()
            assert COMMANDS[inner].make_context(inner, words)
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0 and "Example" in shown.output


def test_shell_completion():
    environment = {"_PYNAS_COMPLETE": "complete_bash", "COMP_WORDS": "pynas re", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], prog_name="pynas", env=environment)
    assert set(result.stdout.split()) == {name for name in COMMANDS if name.startswith("re")} >= {"report", "retrain"}
    environment |= {"COMP_WORDS": "pynas export --on", "COMP_CWORD": "2"}
    assert CliRunner().invoke(app, [], prog_name="pynas", env=environment).stdout.split() == ["--onnx", "--onnx-int8"]
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="pynas")
    assert "_PYNAS_COMPLETE" in script.output or "--show-completion" in CliRunner().invoke(app, ["--help"]).output


def test_a_dry_run_leaves_nothing(half_images, finished, tmp_path, pynas, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", "--data", half_images, "--epochs", 2, "--batch-size", 16, "--dry-run"]
    content = pynas(*words, "--run", tmp_path / "run", "--json")
    assert list(tmp_path.iterdir()) == []
    space, folder = get("mbconv-mini"), finished[0]
    assert content["architectures"] == space.size and content["paths_per_block"] == list(space.path_counts)
    # 64 training images less a fifth for rating; the run had as many steps as it says.
    steps = len((folder / "metrics.jsonl").read_text().splitlines())
    assert content["images"] == {"train": 51, "val": 13, "test": 32} and content["steps"] == steps == 6
    assert (
        content["training_seconds"] == pytest.approx(6 * content["seconds_per_step"]) and content["memory_bytes"] > 1e8
    )
    from pynas.costs import Costs

    costs, rng = Costs.load(folder / "costs.npz"), np.random.default_rng(0)
    for name, (low, high) in content["costs"].items():
        drawn = [costs.of(space.sample(rng))[name] for _ in range(50)]
        assert low <= min(drawn) and max(drawn) <= high
    # Rating shares prefixes: less than every path alone, more than the widest level of each cell alone.
    alone = sum(float(table.sum()) for cells in costs["madds"] for table in cells)
    assert alone / 4 < content["rating_madds_per_image"] < alone and content["rating_seconds"] > 0
    said = " ".join(pynas(*words, "--seeds", 3, "--run", tmp_path / "run").split())
    assert "18 steps of" in said and "3, one after the other" in said


@pytest.mark.parametrize("seconds, text", [(3, "3.0 s"), (150, "2.5 min"), (9000, "2.5 h"), (2.5 * 86400, "2.5 days")])
def test_durations(seconds, text):
    assert display.duration(seconds) == text
