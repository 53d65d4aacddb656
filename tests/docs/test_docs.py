"""The documentation: tutorials run and are short, the names in it exist, and the site builds without a warning."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest
import torch
from pages import PAGES, ROOT, blocks, check_program
from typer.main import get_command


def lines_of_code(source):
    return [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.fixture
def registries():
    """Restore the registries that tutorials add to, for the other tests."""
    from pynas.runs import METHODS
    from pynas.spaces import SPACES
    from pynas.supernets import KINDS

    before = [(registry, dict(registry)) for registry in (METHODS, SPACES, KINDS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def run(page, **shorter):
    """Execute a page's code as one program, with the smaller numbers given."""
    source = "\n".join(blocks(page, "python"))
    for old, new in shorter.values():
        assert old in source
        source = source.replace(old, new)
    names = {"__name__": "tutorial"}
    module = type(sys)("tutorial")
    module.__dict__.update(names)
    sys.modules["tutorial"] = module
    try:
        exec(compile(source, str(page), "exec"), module.__dict__)
    finally:
        del sys.modules["tutorial"]
    return module.__dict__


@pytest.mark.parametrize("name", ["space", "method"])
def test_tutorials_take_less_than_forty_lines(name):
    first, *_ = blocks(ROOT / f"docs/tutorials/{name}.md", "python")
    assert 10 < len(lines_of_code(first)) < 40


def test_the_space_tutorial(registries, capsys):
    fewer = {"data": ('load("digits")', 'load("digits", limit=200)'), "epochs": ("epochs=5", "epochs=1"),
             "teacher": ("(images, blocks, stem)", "(images, blocks, stem, epochs=1)")}  # fmt: skip
    names = run(ROOT / "docs/tutorials/space.md", **fewer)
    found, net = names["found"], names["net"]
    assert net.space.size == 108 and capsys.readouterr().out.startswith("108 ")
    # The best of all architectures that keep the limit, by enumeration.
    everything = {}
    for first in net.space.paths(0):
        for second in net.space.paths(1):
            choices = type(found[0].architecture)((first, second))
            if names["costs"].of(choices)["params"] <= 60e3:
                score = sum(names["scores"][b][choice.cell][choice.path] for b, choice in enumerate(choices))
                everything[choices] = score
    assert found[0].score == pytest.approx(min(everything.values())) and len(everything) < 108


OTHERS = blocks(ROOT / "docs/others.md", "python")


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_programs_for_other_projects_supernets_run_by_themselves(number):
    """Each asserts its own numbers, so that a run without an error is right."""
    exec(compile(OTHERS[number], f"docs/others.md, program {number}", "exec"), {"__name__": "program"})


def test_there_is_a_program_for_each_style_of_supernet():
    used = ("set_attributes", "set_sample_config", "choice_layers", "dag", "side")
    assert [[name for name in used if f"{name}(" in source or f"{name}," in source or f"{name})" in source][-1]
            for source in OTHERS] == list(used)  # fmt: skip


@pytest.mark.integration
def test_the_method_tutorial(registries, tmp_path):
    import numpy as np
    import torch
    from torch.nn import functional

    from pynas import runs

    names = run(ROOT / "docs/tutorials/method.md")
    run_of_cosine = runs.create(
        tmp_path / "run", device="cpu", method="cosine-dna", data="digits", limit_images=200, epochs=1
    )
    run_of_cosine.rehearsal = True
    run_of_cosine.train()
    method, _ = run_of_cosine.trained_method()
    assert type(method) is names["CosineDNA"]
    images, labels = next(iter(run_of_cosine.loader("val")))
    features, _ = method.dna.targets(images)
    # One step's losses against the formula, on the same draws.
    losses = method.train().training_step(images, labels, np.random.default_rng(3))
    rng, method.net = np.random.default_rng(3), method.net.train()
    for b, cells in enumerate(run_of_cosine.space.blocks):
        x = method.net.enter(images) if b == 0 else features[b - 1]
        cell = int(rng.integers(len(cells)))
        for layer, k in enumerate(rng.integers(0, cells[cell].counts)):
            x = method.net.layers(b, cell)[layer][k](x)
        cosine = (functional.normalize(x) * functional.normalize(features[b])).sum(1).mean()
        torch.testing.assert_close(losses[f"block_{b + 1}"], (1 - cosine).detach(), rtol=1e-4, atol=1e-4)
    table = method.eval().rate_block(run_of_cosine.loader("val"), 3, loss="cosine", norm="batch")
    assert len(table[0]) == 16


def test_the_page_of_compression_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs/compress.md")
    x = names["batches"][0]
    assert torch.equal(names["again"](x), names["small"](x))


def test_every_command_line_in_the_pages_parses():
    from pynas.cli import app

    commands = get_command(app).commands
    seen = set()
    for page in PAGES:
        text = (
            "\n".join(blocks(page, "sh"))
            + "\n"
            + "\n".join(re.findall(r"`(pynas [^`]*)`", page.read_text(encoding="utf-8")))
        )
        lines = re.findall(r"(?:^|/|`|\s)pynas ([a-z][^;&|#\n`]*)", text)
        for line in [part for each in lines for part in each.split(" -- ")]:
            name, *rest = line.split()
            assert name in commands, (page, line)
            known = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= known | {"--help"}, (page, line)
            seen.add(name)
    assert {"run", "rate", "search", "export", "retrain", "report"} <= seen


def test_there_are_twenty_questions_with_short_answers():
    text = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\*\*.+?(?=\n\n|\n*\Z)", text, re.M | re.S)
    assert len(answers) == 20
    for answer in answers:
        assert 2 <= len(answer.splitlines()) <= 4 and "`" in answer, answer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_python_in_the_pages_has_names_and_arguments_that_exist(page):
    for source in blocks(page, "python"):
        check_program(source)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import pynas\npynas.search.bests()", AttributeError),
        ("import pynas\npynas.search.best({}, {}, limit={})", TypeError),
        ("from pynas.runs import creates", ImportError),
        ("import pynas\nrun = pynas.runs.create('runs/x', epoch=3)", AssertionError),
        ("import pynas\nrun = pynas.runs.load('runs/x')\nrun.search({}, fronts='madds')", AssertionError),
    ],
)
def test_programs_with_other_names_or_arguments_are_found(source, error):
    with pytest.raises(error):
        check_program(source)


def test_code_in_tabs_is_seen():
    page = '=== "Python"\n\n    ```python\n    if x:\n        y\n    ```\n\n```python\nz\n```\n'
    assert blocks(page, "python") == ["if x:\n    y\n", "z\n"]


def test_tabs_have_a_command_and_a_program():
    """Both forms stand in each group of tabs, under the same two titles, so that one choice holds for all."""
    tabs = 0
    for page in PAGES:
        titles = re.findall(r'^=== "(.*)"\n\n    ```(\w+)', page.read_text(encoding="utf-8"), re.M)
        assert titles == [("Command line", "sh"), ("Python", "python")] * (len(titles) // 2), page
        tabs += len(titles) // 2
    assert tabs > 20
    assert not re.search(r'^=== "', (ROOT / "README.md").read_text(encoding="utf-8"), re.M)


def test_every_name_in_the_pages_exists():
    from pynas.spaces import SPACES

    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for dotted in set(re.findall(r"`(pynas(?:\.\w+)+)", text)):
            pkgutil.resolve_name(dotted)
        for space in re.findall(r"pynas\.supernet\(\"([\w-]+)\"\)", text):
            assert space in SPACES or space == "convs", (page, space)


@pytest.mark.parametrize("name", [page.stem for page in sorted((ROOT / "docs/reference").glob("*.md"))])
def test_the_reference_lists_every_public_class_and_function(name):
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    listed = re.findall(r"^::: (\S+)", hooks.reference(name), re.M)
    module = importlib.import_module(f"pynas.{name}")
    public = [getattr(module, each) for each in module.__all__]
    wanted = {f"{t.__module__}.{t.__qualname__}" for t in public if inspect.isclass(t) or inspect.isfunction(t)}
    assert wanted <= set(listed) and len(listed) == len(set(listed))


def test_docstrings_hold_no_accidental_links():
    """`[b][cell]` is a link in Markdown unless it stands between backticks."""
    for path in (ROOT / "pynas").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and not getattr(
                node, "name", ""
            ).startswith("_"):
                text = re.sub(r"`[^`]*`", "", ast.get_docstring(node) or "")
                assert "][" not in text, (path.name, getattr(node, "name", ""), re.findall(r".*\]\[.*", text))


def test_nothing_tells_users_to_install_a_strangers_package():
    """The name pynas on the package index is somebody else's: installs name a checkout, ".[extra]"."""
    name = "pynas"
    stranger = re.compile(rf"pip3? install[^\n`]*[\"' ]{name}(?![-/\w])")
    assert stranger.search(f'run pip install "{name}[onnx]"') and stranger.search(f"pip install -U {name}")
    assert not stranger.search('pip install ".[onnx]"')
    texts = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    texts += [path for folder in ("pynas", "examples", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in texts if stranger.search(path.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason='needs pip install ".[docs]"')
def test_the_site_builds_without_a_warning(tmp_path):
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference/search/index.html").read_text(encoding="utf-8")
    assert 'id="pynas.search.best.best"' in page
    assert "<code>1|1:101|13|11</code>" in (tmp_path / "results/index.html").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)]+)\)", (tmp_path / "llms.txt").read_text(encoding="utf-8"))
    assert len(linked) > 30 and all((tmp_path / to).is_file() for to in linked)
    assert sorted(path.name for path in (tmp_path / "notebooks").glob("*.ipynb")) == [
        "compress.ipynb", "first_search.ipynb", "latency_and_limits.ipynb", "own_supernet.ipynb"
    ]  # fmt: skip
    assert "<label" in (tmp_path / "command-line/index.html").read_text(encoding="utf-8").split("tabbed-labels")[1]
