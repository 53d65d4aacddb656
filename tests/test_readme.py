"""The commands of the README parse, and its Python runs, with fewer epochs."""

import re
import shlex

import pytest
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
    assert first.strip().endswith("pynas run --max-madds 16M") and second.strip().endswith("pytest")
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


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = blocks("python")[0]
    assert "epochs=20" in example
    exec(compile(example.replace("epochs=20", "epochs=1"), "README", "exec"), {})
    assert "optimal (gap 0)" in capsys.readouterr().out
