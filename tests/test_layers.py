"""The order of the folders: one imports only what stands before it. Read off the source, nothing is imported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["_C", "ops", "nn", "spaces", "supernets", "costs", "rating", "search", "zero_cost", "data", "teachers"]
ORDER += ["tabular", "train", "methods", "evaluation", "export", "report", "runs", "cli"]
BELOW_ALL = {"checked", "errors", "files", "tensor_files", "_version"}


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
    """What a file of `pynas.FOLDER` imports out of order."""
    folder = package.split(".")[1]
    if folder in BELOW_ALL:
        allowed = BELOW_ALL
    else:
        allowed = BELOW_ALL | set(ORDER[: ORDER.index(folder) + 1])
    parts = [name.split(".") for name in imported(source, package)]
    # `from pynas import x` of a plain name of the package itself, like __version__, would be a circle too.
    return [".".join(part) for part in parts if part[0] == "pynas" and (len(part) < 2 or part[1] not in allowed)]


FILES = sorted(path for path in (ROOT / "pynas").rglob("*.py") if path != ROOT / "pynas" / "__init__.py")


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
        ("from pynas import train", "pynas.methods", ["pynas.train"]),
        ("def f():\n    from pynas.report import page", "pynas.export", ["pynas.report.page"]),
        ("from ..methods import dna", "pynas.data", ["pynas.methods.dna"]),
        ("import pynas", "pynas.cli", ["pynas"]),
        ("from pynas import ops", "pynas.errors", ["pynas.ops"]),
        ("from . import table", "pynas.costs", []),
        ("from pynas import _C, files\nimport torch", "pynas.ops", []),
    ],
)
def test_the_reading_finds_what_it_should(source: str, package: str, found: list[str]) -> None:
    assert violations(source, package) == found


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
