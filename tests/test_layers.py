"""Rules of the source: the order of the folders, no import circles, short files, plain docstrings. Nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["_C", "ops", "nn", "spaces", "supernets", "runtimes", "costs", "rating", "search", "zero_cost", "data"]
ORDER += ["teachers", "tabular", "train", "methods", "evaluation", "export", "compress", "report", "runs", "cli"]
BELOW_ALL = {
    "calls",
    "quantities",
    "checked",
    "copies",
    "csv_files",
    "errors",
    "files",
    "tensor_files",
    "visits",
    "with_timm",
    "_version",
}
MOST_LINES = 300


def imported(source: str, package: str) -> list[str]:
    """Full names of the modules that a file in `package` may import, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, package: str) -> list[str]:
    """Names that a file of `pynas.FOLDER` imports out of order."""
    folder = package.split(".")[1]
    if folder in BELOW_ALL:
        allowed = BELOW_ALL
    else:
        allowed = BELOW_ALL | set(ORDER[: ORDER.index(folder) + 1])
    parts = [name.split(".") for name in imported(source, package)]
    # `from pynas import x` of a plain name of the package itself, like __version__, would be a circle too.
    return [".".join(part) for part in parts if part[0] == "pynas" and (len(part) < 2 or part[1] not in allowed)]


def circle(sources: Mapping[str, str]) -> list[str]:
    """A circle of imports among modules, from one of them back to it; empty where there is none.

    sources: by the module's full name; that of a package ends with `.__init__`. Every import counts, also one inside a
        function or under TYPE_CHECKING. `from package import name` is an import of the module `package.name` where there
        is one, else of the package itself.
    """
    modules = {name.removesuffix(".__init__"): name for name in sources}
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        parts = [full.split(".") for full in imported(source, name.rpartition(".")[0])]
        prefixes = [[".".join(part[:length]) for length in range(len(part), 0, -1)] for part in parts]
        nearest = {next((modules[p] for p in options if p in modules), name) for options in prefixes}
        graph[name] = nearest - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def guesses(source: str) -> list[str]:
    """Calls of hasattr and isinstance that ask a variable or attribute named `net` for its kind."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    asking = [call for call in calls if ast.unparse(call.func) in ("hasattr", "isinstance")]
    return [ast.unparse(call) for call in asking if ast.unparse(call.args[0]).split(".")[-1] == "net"]


def unclear_docstrings(source: str) -> list[str]:
    """First lines of docstrings that begin with "What", "The same" or "As" instead of saying what the thing is or does."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [text.splitlines()[0] for text in texts if re.match(r"(What|The same|As)\b", text)]


ALL = sorted((ROOT / "pynas").rglob("*.py"))
FILES = [path for path in ALL if path != ROOT / "pynas" / "__init__.py"]
each_file = pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT / "pynas")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "pynas")))
def test_order(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = ".".join(parts[:-1] if len(parts) > 2 else parts)
    if package == "pynas.__main__":
        pytest.skip("starts the command line")
    assert violations(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("from pynas.cli import main", "pynas.search", ["pynas.cli.main"]),
        ("import pynas.data.images", "pynas.rating", ["pynas.data.images"]),
        ("from pynas import export", "pynas.methods", ["pynas.export"]),
        ("def f():\n    from pynas.report import page", "pynas.export", ["pynas.report.page"]),
        ("from ..methods import dna", "pynas.data", ["pynas.methods.dna"]),
        ("import pynas", "pynas.cli", ["pynas"]),
        ("from pynas import ops", "pynas.errors", ["pynas.ops"]),
        ("from . import table", "pynas.costs", []),
        ("from pynas import _C, files\nimport torch", "pynas.ops", []),
    ],
)
def test_order_finds_imports_out_of_order(source: str, package: str, found: list[str]) -> None:
    assert violations(source, package) == found


@pytest.mark.parametrize("folder", ORDER[1:])
def test_no_circles_inside_a_folder(folder: str) -> None:
    paths = (ROOT / "pynas" / folder).rglob("*.py")
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8") for path in paths
    }
    assert circle(sources) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"p.a": "from p.b import f", "p.b": "import torch"}, set()),
        ({"p.a": "from p.b import f", "p.b": "def f():\n    from p import a"}, {"p.a", "p.b"}),
        ({"p.a": "import p.b", "p.b": "if TYPE_CHECKING:\n    from p.a import A"}, {"p.a", "p.b"}),
        ({"p.a": "from .b import f", "p.b": "from .c import f", "p.c": "from . import a"}, {"p.a", "p.b", "p.c"}),
        ({"p.__init__": "from p.a import A\nfrom p.b import B", "p.a": "from p import B", "p.b": ""}, {"p.__init__", "p.a"}),
        ({"p.__init__": "from p.a import A\nfrom p.b import B", "p.a": "from p import b", "p.b": ""}, set()),
        ({"p.__init__": "from p.q import A", "p.q.__init__": "from .a import A", "p.q.a": "from p import b", "p.b": ""}, set()),
        ({"p.a": "from p.a import f"}, set()),
    ],
)  # fmt: skip
def test_circles_are_found(sources: dict[str, str], found: set[str]) -> None:
    assert set(circle(sources)) == found


@each_file
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@each_file
def test_no_guesses_about_nets(path: Path) -> None:
    assert guesses(path.read_text(encoding="utf-8")) == []


@each_file
def test_docstrings_begin_with_a_subject_or_a_verb(path: Path) -> None:
    assert unclear_docstrings(path.read_text(encoding="utf-8")) == []


def test_guesses_and_unclear_docstrings_are_found() -> None:
    source = 'def f(net, part):\n    """As g."""\n    return hasattr(net, "x") or isinstance(part, A) or isinstance(self.net, A)'
    assert guesses(source) == ["hasattr(net, 'x')", "isinstance(self.net, A)"]
    assert unclear_docstrings(source) == ["As g."]
    source = '"""What it is."""\nclass A:\n    """Assets."""\n    def f(self):\n        """The same,\n        again."""'
    assert unclear_docstrings(source) == ["What it is.", "The same,"] and guesses(source) == []


def test_every_folder_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "pynas").glob("*/__init__.py")}
    assert folders <= set(ORDER)


@pytest.mark.parametrize("path", sorted((ROOT / "pynas" / "spaces").glob("*.py")), ids=lambda path: path.name)
def test_spaces_need_no_torch(path: Path) -> None:
    assert not [name for name in imported(path.read_text(encoding="utf-8"), "pynas.spaces") if name.startswith("torch")]


NATIVE = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cuh", ".cpp", ".cu"})


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(ROOT / "csrc")))
def test_no_torch_in_the_core_and_python_only_in_bindings(path: Path) -> None:
    headers = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    forbidden = ("torch/", "ATen/", "c10/")
    if "bindings" not in path.parts:
        forbidden += ("Python.h", "pybind11/")
    assert [header for header in headers if header.startswith(forbidden)] == []
