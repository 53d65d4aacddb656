"""The notebooks run to their end, each claim asserted in its cells; their outputs are cleared, and each installs pynas first."""

import json
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
INSTALL = re.compile(
    r'import importlib\.util\n\nif importlib\.util\.find_spec\("pynas"\) is None:.*\n    %pip install \./pynas_search-\*\.whl[ \w]*'
)
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@notebooks
def test_a_notebook_begins_with_its_heading_and_the_install(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata
    first, second, *rest = notebook.cells
    assert first.cell_type == "markdown" and re.match(r"# \w", first.source)
    assert INSTALL.fullmatch(second.source)
    code = [cell.source for cell in rest if cell.cell_type == "code"]
    assert not [source for source in code if re.search(r"^\s*[%!]", source, re.M)]
    assert any(re.search(r"^\s*assert ", source, re.M) for source in code)
    assert sum(cell.cell_type == "markdown" for cell in rest) >= 4


@notebooks
def test_outputs_are_cleared(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_the_page_and_the_notebooks_link_to_notebooks_that_exist():
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\((\w+\.ipynb)\)", page)) == [path.name for path in NOTEBOOKS] and len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        assert all(
            (FOLDER / link).exists() for link in re.findall(r"\]\((\w+\.ipynb)\)", path.read_text(encoding="utf-8"))
        )


@pytest.mark.slow
@notebooks
def test_a_notebook_runs_and_shows_its_results(path, tmp_path, monkeypatch):
    """A cell's own error fails the test; the plots and the printed tables are there."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    printed = [output.text for output in shown if output.get("name") == "stdout"]
    assert len(pictures) >= 1 and len(printed) >= 4
