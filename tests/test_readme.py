"""The commands of the README parse, and its Python runs, with fewer epochs."""

import re
import shlex

import pytest
import torch
from pages import ROOT, check_program
from pages import blocks as blocks_of
from typer.main import get_command

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return blocks_of(README, language)


def test_python_has_names_and_arguments_that_exist():
    assert sum(check_program(source) for source in blocks("python")) >= 8


def test_the_two_commands_come_first():
    first, second = blocks("sh")[:2]
    assert first.strip().endswith("pynas run --max-madds 16M") and " -m pytest" in second
    assert all(len(block.strip().splitlines()) == 1 for block in (first, second))


@pytest.mark.parametrize("line", [line for block in blocks("sh")[2:] for line in block.splitlines()])
def test_every_command_line_parses(line):
    """Subcommands and options exist; no command runs."""
    from pynas.cli import app

    commands = re.findall(r"\bpynas (?!.*\$\()([^;#|]+)", line)
    for command in [part for each in commands for part in each.split(" -- ")]:
        name, *rest = shlex.split(command.strip().rstrip(')"'))
        known = {option for p in get_command(app).commands[name].params for option in p.opts}
        assert {word for word in rest if word.startswith("--")} <= known, command


def test_five_features_have_numbers_that_stand_in_the_tables():
    features = re.findall(r"^- \*\*.*$", README.split("\n## ")[0], re.M)
    tables = README.split("\n## Measured")[1] + (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(features) == 5
    for feature in features:
        numbers = re.findall(r"\b\d+\.\d+|\b\d+(?= times| s\b)", feature)
        assert numbers and all(re.search(rf"\b{re.escape(number)}\b", tables) for number in numbers), feature


def test_the_readme_is_short_and_its_pictures_exist():
    assert len(README.splitlines()) < 170
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / path).is_file() for path in pictures)


def test_the_picture_of_the_terminal_is_of_the_readmes_command_and_fetches_nothing():
    svg = (ROOT / "docs" / "figures" / "terminal.svg").read_text(encoding="utf-8")
    assert "pynas&#160;run&#160;--max-madds&#160;16M" in svg and "Best&#160;architectures" in svg
    assert "@font-face" not in svg and set(re.findall(r"https?://[^\"\s]+", svg)) == {"http://www.w3.org/2000/svg"}


def test_the_first_program_has_ten_lines():
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert 5 < len(lines) <= 10


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = blocks("python")[0]
    assert "epochs=20" in example
    names = {}
    exec(compile(example.replace("epochs=20", "epochs=1"), "README", "exec"), names)
    assert "optimal (gap 0)" in str(names["found"].certificate) and names["model"](torch.rand(2, 3, 32, 32)).shape == (
        2,
        10,
    )
